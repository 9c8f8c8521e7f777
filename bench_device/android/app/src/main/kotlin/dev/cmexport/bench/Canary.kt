package dev.cmexport.bench

/**
 * A fixed piece of arithmetic that knows nothing of the model: a float32 matrix product in plain Kotlin. When it slows
 * down between the first and the last round, the clock did, not the model.
 */
class Canary {
    private val a = FloatArray(SIDE * SIDE) { 0.5f }
    private val out = FloatArray(SIDE * SIDE)

    init {
        // The first calls run before Android's compiler has taken over.
        repeat(10) { once() }
    }

    /** Milliseconds of a few products. The first one finds the model's data in the caches: not counted. */
    fun sing(): List<Double> = List(RUNS + 1) { once() }.drop(1)

    private fun once(): Double {
        val start = System.nanoTime()
        for (i in 0 until SIDE) {
            for (j in 0 until SIDE) {
                var sum = 0f
                for (k in 0 until SIDE) sum += a[i * SIDE + k] * a[k * SIDE + j]
                out[i * SIDE + j] = sum
            }
        }
        return (System.nanoTime() - start) / 1e6
    }

    private companion object {
        const val SIDE = 160
        const val RUNS = 5
    }
}
