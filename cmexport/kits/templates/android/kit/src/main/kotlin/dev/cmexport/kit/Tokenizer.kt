package dev.cmexport.kit

import java.text.Normalizer
import java.util.Locale
import java.util.PriorityQueue
import org.json.JSONObject

/** CLIP's tokenizer (byte-level BPE), from the files that an artefact has beside its model. */
internal class Tokenizer(
    private val words: Words,
    private val vocabulary: Map<String, Int>,
    merges: List<Pair<String, String>>,
    specials: List<Special>,
) {
    /** A token found in text as it stands; [folded]: looked for, in any case, in normalized text. */
    class Special(val text: String, val id: Int, val folded: Boolean)

    private val ranks = merges.withIndex().associate { (rank, pair) -> pair to rank }
    private val verbatim = specials.filter { !it.folded }.associate { it.text to it.id }
    private val folded = specials.filter { it.folded }.associate { normalized(it.text) to it.id }
    private val unknown = vocabulary.entries.first { it.value == words.unknown }.key

    /** As many ids as the model takes: begin, what there is room for, end, then pad. */
    fun encode(text: String): LongArray {
        val ids = ArrayList<Int>()
        for ((plain, special) in apart(sound(text), verbatim)) {
            for ((part, folded) in apart(normalized(plain), folded)) {
                for (piece in pieces(part)) joined(piece, ids)
                if (folded != null) ids.add(folded)
            }
            if (special != null) ids.add(special)
        }
        val kept = ids.take(words.length - 2)
        return LongArray(words.length) {
            when {
                it == 0 -> words.begin
                it <= kept.size -> kept[it - 1]
                it == kept.size + 1 -> words.end
                else -> words.pad
            }.toLong()
        }
    }

    /** Join a word's bytes pair by pair: of those in the list the earliest, of equal ones the leftmost. */
    private fun joined(piece: String, ids: MutableList<Int>) {
        val spelled = piece.toByteArray().mapTo(ArrayList()) { BYTES[it.toInt() and 0xFF] }
        spelled[spelled.lastIndex] += END_OF_WORD
        val parts = spelled.map { if (it in vocabulary) it else unknown }.toTypedArray()
        val after = IntArray(parts.size) { if (it < parts.lastIndex) it + 1 else -1 }
        val before = IntArray(parts.size) { it - 1 }
        val waiting = PriorityQueue(parts.size + 1, compareBy(Join::rank, Join::left, Join::whole))

        fun consider(left: Int, right: Int) {
            if (left < 0 || right < 0) return
            ranks[parts[left] to parts[right]]?.let { waiting.add(Join(it, left, parts[left] + parts[right])) }
        }

        for (left in 0 until parts.lastIndex) consider(left, left + 1)
        while (true) {
            val join = waiting.poll() ?: break
            val left = join.left
            val right = after[left]
            // A pair that was changed meanwhile still counts if it becomes the same piece.
            if (parts[left].isEmpty() || right < 0 || parts[left] to parts[right] !in ranks) continue
            if (parts[left] + parts[right] != join.whole) continue
            parts[left] = join.whole
            parts[right] = ""
            after[left] = after[right]
            if (after[left] >= 0) before[after[left]] = left
            consider(before[left], left)
            consider(left, after[left])
        }
        parts.filter(String::isNotEmpty).mapTo(ids, vocabulary::getValue)
    }

    private class Join(val rank: Int, val left: Int, val whole: String)

    companion object {
        private const val END_OF_WORD = "</w>"

        /** A printable character for each byte, as in GPT-2's vocabulary. */
        private val BYTES = run {
            var others = 256
            List(256) { byte ->
                val printable = byte in 33..126 || byte in 161..172 || byte in 174..255
                (if (printable) byte else others++).toChar().toString()
            }
        }

        // No \s: Android's counts other characters than a computer's. In text whose letters outside ASCII are "b" and
        // digits "0"; transformers' pattern.
        private val PIECES = Regex(
            "<\\|((?:start|end)oftext)\\|>|'(?:s|t|re|ve|m|ll|d)|[A-Za-z]+|[0-9]|[^\\t-\\r A-Za-z0-9]+",
        )

        // What Python calls white space, without 1C to 1F.
        private val SPACES = Regex("[\\t-\\r \\u0085\\u00A0\\u1680\\u2000-\\u200A\\u2028\\u2029\\u202F\\u205F\\u3000]+")

        /** Read the folder that the facts name, `read` giving its files. */
        fun open(words: Words, read: (String) -> ByteArray): Tokenizer {
            fun text(name: String) = String(read("${words.folder}/$name"), Charsets.UTF_8)
            val vocabulary = JSONObject(text("vocab.json"))
            val merges = text("merges.txt").split('\n').drop(1).filter(String::isNotEmpty)
            val added = JSONObject(text("tokenizer_config.json")).getJSONObject("added_tokens_decoder")
            return Tokenizer(
                words,
                vocabulary.keys().asSequence().associateWith(vocabulary::getInt),
                merges.map { it.substringBefore(' ') to it.substringAfter(' ') },
                added.keys().asSequence().toList().map { id ->
                    val special = added.getJSONObject(id)
                    Special(special.getString("content"), id.toInt(), special.getBoolean("normalized"))
                },
            )
        }

        /** Half of a surrogate pair becomes U+FFFD. */
        private fun sound(text: String): String = buildString {
            for (point in points(text)) appendCodePoint(if (point in 0xD800..0xDFFF) 0xFFFD else point)
        }

        private fun points(text: String): List<Int> {
            val points = ArrayList<Int>(text.length)
            var at = 0
            while (at < text.length) {
                points.add(text.codePointAt(at))
                at += Character.charCount(points.last())
            }
            return points
        }

        /** NFC, white space folded, lower case: letter by letter, since a word's last sigma becomes another one. */
        private fun normalized(text: String): String = buildString {
            for (point in points(SPACES.replace(Normalizer.normalize(text, Normalizer.Form.NFC), " "))) {
                append(String(Character.toChars(point)).lowercase(Locale.ROOT))
            }
        }

        /** Words, single digits, contractions and runs of anything else. */
        private fun pieces(text: String): Sequence<String> {
            val points = points(text)
            val shadow = String(CharArray(points.size) { shadow(points[it]) })
            return PIECES.findAll(shadow).flatMap { match ->
                // Special tokens in capitals come here, and are taken to pieces.
                match.groups[1]?.let { sequenceOf("<|", it.value, "|>") }
                    ?: sequenceOf(match.range.joinToString("") { String(Character.toChars(points[it])) })
            }
        }

        private fun shadow(point: Int): Char = when {
            point < 128 -> point.toChar()
            Character.isLetter(point) -> 'b'
            Character.getType(point).toByte() in NUMBERS -> '0'
            else -> '.'
        }

        private val NUMBERS = setOf(Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER, Character.OTHER_NUMBER)

        /** Text between special tokens, the longest where several begin; each part with the id of what follows it. */
        private fun apart(text: String, specials: Map<String, Int>): List<Pair<String, Int?>> {
            if (specials.isEmpty()) return listOf(text to null)
            val longestFirst = specials.keys.sortedByDescending(String::length)
            val any = Regex(longestFirst.joinToString("|", transform = Regex::escape))
            val parts = ArrayList<Pair<String, Int?>>()
            var start = 0
            for (match in any.findAll(text)) {
                parts.add(text.substring(start, match.range.first) to specials.getValue(match.value))
                start = match.range.last + 1
            }
            parts.add(text.substring(start) to null)
            return parts
        }
    }
}
