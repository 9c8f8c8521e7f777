package dev.cmexport.kit

/** Where ONNX Runtime computes. Only [CPU] was ever run; it is also the one that golden pictures were drawn with. */
enum class Provider(internal val title: String) { CPU("cpu"), XNNPACK("xnnpack"), NNAPI("nnapi") }

/**
 * How a model is opened.
 *
 * @property threads for one picture; 0 leaves it to ONNX Runtime, which takes every core, also the slow ones.
 * @property verify hash the stored model again, which takes about as long as reading it; its first copy always is.
 */
class Options(val threads: Int = 2, val provider: Provider = Provider.CPU, val verify: Boolean = false)

/** What the golden pictures said of this device: the worst of them, and the time all took, without opening. */
class SelfTest(val worstDb: Double, val pictures: Int, val milliseconds: Double)
