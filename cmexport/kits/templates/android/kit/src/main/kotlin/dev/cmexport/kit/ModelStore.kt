package dev.cmexport.kit

import java.io.File
import java.io.FileNotFoundException
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest

/** Where a kit's files come from: assets of the app, or a folder. Paths have slashes. */
fun interface Source {
    /** Open a file; throws [IOException] when it is not there. */
    fun open(path: String): InputStream
}

/** Files below a folder, for tests on a computer and for models that were downloaded. */
class FolderSource(private val folder: File) : Source {
    override fun open(path: String): InputStream = File(folder, path).inputStream()
}

/**
 * The model as files with paths, since ONNX Runtime opens those without a copy in memory and assets have none.
 *
 * Each file is copied once, hashed on the way. The folder is named by the hash of all of them, so an update of the app
 * brings a new one; older ones are removed.
 */
internal class ModelStore(private val source: Source, private val facts: Facts, storage: File) {
    private val home = File(storage, "cmexport/${facts.name}")
    private val models = facts.files.filter { it.role == "model" || it.role == "weights" }
    private val folder = File(home, hashed(models.joinToString("\n") { it.sha256 }.toByteArray()).take(32))

    /**
     * Copy what is not there yet.
     *
     * @param verify hash also what was copied before; a damaged copy is removed, so that the next time makes a new one.
     * @return the folder with the files.
     */
    fun prepare(verify: Boolean): File = storing { synchronized(ONE_AT_A_TIME) { stored(verify) } }

    private fun stored(verify: Boolean): File {
        home.listFiles()?.filter { it != folder }?.forEach { it.deleteRecursively() }
        for (file in models) {
            val stored = File(folder, file.path)
            when {
                stored.length() != file.bytes -> copy(file, stored)
                verify -> check(file, stored)
            }
        }
        return folder
    }

    /** The bytes of a small file that is no model; hashed if the facts know it. */
    fun read(path: String): ByteArray = storing {
        val bytes = open(path).use(InputStream::readBytes)
        facts.files.firstOrNull { it.path == path }?.let { matching(it, hashed(bytes)) }
        bytes
    }

    private fun copy(file: ModelFile, stored: File) {
        val part = File(stored.path + ".part")
        part.parentFile?.mkdirs()
        val found = open(file.path).use { from ->
            part.outputStream().use { to -> hash(from) { bytes, count -> to.write(bytes, 0, count) } }
        }
        try {
            matching(file, found)
            if (!part.renameTo(stored)) throw IOException("${part.path} can't be renamed")
        } finally {
            part.delete()
        }
    }

    private fun check(file: ModelFile, stored: File) {
        val found = stored.inputStream().use { from -> hash(from) { _, _ -> } }
        if (found != file.sha256) stored.delete()
        matching(file, found)
    }

    private fun open(path: String): InputStream = try {
        source.open("${facts.name}/$path")
    } catch (error: FileNotFoundException) {
        throw KitException.ModelMissing(path, error)
    }

    private fun matching(file: ModelFile, found: String) {
        if (found != file.sha256) throw KitException.ModelDamaged(file.path, found)
    }

    private fun hash(from: InputStream, each: (ByteArray, Int) -> Unit): String {
        val digest = sha256()
        val bytes = ByteArray(1 shl 16)
        while (true) {
            val count = from.read(bytes)
            if (count < 0) return hex(digest.digest())
            digest.update(bytes, 0, count)
            each(bytes, count)
        }
    }

    private fun <T> storing(work: () -> T): T = try {
        work()
    } catch (error: IOException) {
        throw KitException.Runtime("${facts.name} can't be stored: ${error.message}", error)
    }

    private fun hashed(bytes: ByteArray) = hex(sha256().digest(bytes))

    private fun sha256() = MessageDigest.getInstance("SHA-256")

    private fun hex(bytes: ByteArray) = bytes.joinToString("") { "%02x".format(it) }

    private companion object {
        // Who opens again while a cancelled opening still copies waits for it.
        val ONE_AT_A_TIME = Any()
    }
}
