package dev.cmexport.kit

import java.io.Closeable

/** Numbers at the border of a graph, in C order. */
internal sealed class Tensor {
    class Floats(val values: FloatArray) : Tensor()

    class Longs(val values: LongArray) : Tensor()

    class Bytes(val values: ByteArray) : Tensor()
}

/** Runs one graph. Used from one thread. */
internal interface Engine : Closeable {
    /**
     * Run the graph once.
     *
     * @throws KitException.Cancelled [stop] was requested, before or meanwhile.
     * @throws KitException.Runtime the runtime failed.
     */
    fun run(inputs: Map<String, Tensor>, stop: Stop): Tensor
}

/** A wish to stop, from any thread, passed on to what is running just then. */
internal class Stop {
    private var passOn: (() -> Unit)? = null

    /** Whether it was requested. */
    var requested = false
        private set

    @Synchronized
    fun request() {
        requested = true
        passOn?.invoke()
    }

    /** Do [work]; on request [passOn] is called, never after the work has ended. */
    fun <T> during(passOn: () -> Unit, work: () -> T): T {
        set(passOn)
        try {
            return work()
        } finally {
            set(null)
        }
    }

    @Synchronized
    private fun set(action: (() -> Unit)?) {
        passOn = action
        if (requested && action != null) throw KitException.Cancelled()
    }
}
