package dev.cmexport.kit

import java.util.Locale

/** Everything that a kit throws but the cancellation of a coroutine, which stays a `CancellationException`. */
sealed class KitException(message: String, cause: Throwable? = null) : Exception(message, cause) {
    /** A file of the model is not there; [path] is relative to the model's folder. */
    class ModelMissing(val path: String, cause: Throwable? = null) :
        KitException("$path is missing; copy the kit's assets as they are", cause)

    /** A file of the model has other bytes than it was exported with; [sha256] is what was found. */
    class ModelDamaged(val path: String, val sha256: String) :
        KitException("$path has other bytes than the exported file (SHA-256 $sha256); copy it again")

    /** ONNX Runtime or the storage failed; [message] is their word. */
    class Runtime(message: String, cause: Throwable? = null) : KitException(message, cause)

    /** What was asked for can't be drawn; [what] says why. */
    class BadInput(val what: String) : KitException(what)

    /** `cancel()` or `close()` stopped it. */
    class Cancelled : KitException("cancelled")

    /** This device draws other pictures than the exported file did: the worst is [worstDb], [leastDb] is asked for. */
    class SelfTestFailed(val worstDb: Double, val leastDb: Double) :
        KitException("self-test: a picture has %.1f dB, not %.1f".format(Locale.ROOT, worstDb, leastDb))
}
