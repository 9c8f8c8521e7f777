package dev.cmexport.kit

/**
 * FNV-1a-32 over the bits of every STRIDE-th word's number, from word 0 on. With stride 1, all 2^32 of them, it is
 * 005e8bd3 in every language.
 */
fun main(arguments: Array<String>) {
    val stride = arguments[0].toLong()
    var hash = -2128831035
    var word = 0L
    while (word < 1L shl 32) {
        hash = (hash xor Noise.normal(word.toInt()).toRawBits()) * 16777619
        word += stride
    }
    println("%08x".format(hash))
}
