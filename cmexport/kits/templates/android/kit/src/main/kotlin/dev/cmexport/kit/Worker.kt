package dev.cmexport.kit

import java.io.Closeable
import java.util.Collections
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.Executors
import java.util.concurrent.RejectedExecutionException
import kotlinx.coroutines.suspendCancellableCoroutine

/** One thread that works for one model, so that pictures queue instead of fighting over the cores. */
internal class Worker(private val name: String) : Closeable {
    private val thread = Executors.newSingleThreadExecutor { work ->
        Thread(work, "cmexport-$name").apply { isDaemon = true }
    }
    private val stops: MutableSet<Stop> = Collections.newSetFromMap(ConcurrentHashMap())

    /**
     * Do [work] on the thread and wait for it, suspended.
     *
     * A cancelled coroutine goes on at once; what it had asked for stops after the operator that is running.
     */
    suspend fun <T> run(work: (Stop) -> T): T = suspendCancellableCoroutine { continuation ->
        val stop = Stop()
        stops.add(stop)
        continuation.invokeOnCancellation { stop.request() }
        try {
            thread.execute {
                val result = runCatching { if (stop.requested) throw KitException.Cancelled() else work(stop) }
                continuation.resumeWith(result)
                stops.remove(stop)
            }
        } catch (closed: RejectedExecutionException) {
            stops.remove(stop)
            continuation.resumeWith(Result.failure(KitException.Runtime("$name is closed", closed)))
        }
    }

    /** Stop what runs and what waits; each ends with [KitException.Cancelled]. */
    fun stop() = stops.forEach(Stop::request)

    /** Stop, do [last] on the thread, and take nothing more. */
    fun close(last: () -> Unit) {
        stop()
        if (!thread.isShutdown) thread.execute(last)
        thread.shutdown()
    }

    override fun close() = close {}
}
