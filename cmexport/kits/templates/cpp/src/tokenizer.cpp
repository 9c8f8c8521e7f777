#include "cmkit/tokenizer.hpp"

#include <algorithm>
#include <array>
#include <queue>
#include <tuple>

#include "files.hpp"
#include "json.hpp"
#include "unicode.hpp"
#include "utf8.hpp"

namespace cmkit {
namespace {

constexpr std::string_view kEndOfWord = "</w>";

/// A printable character for each byte, as GPT-2's `bytes_to_unicode`.
const std::array<std::string, 256>& alphabet() {
  static const std::array<std::string, 256> all = [] {
    std::array<std::string, 256> made;
    std::uint32_t other = 256;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (33 <= byte && byte < 127) || (161 <= byte && byte < 173) || 174 <= byte;
      append_utf8(made[byte], printable ? byte : other++);
    }
    return made;
  }();
  return all;
}

/// White space of regular expressions, which Python counts 1C to 1F to as well.
bool is_space(char32_t c) {
  return (9 <= c && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (0x2000 <= c && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::u32string normalized(const std::u32string& text) {
  std::u32string folded;
  for (const char32_t c : unicode::nfc(text)) {
    if (!is_space(c))
      folded += c;
    else if (folded.empty() || folded.back() != U' ')
      folded += U' ';
  }
  return unicode::lower(folded);
}

unicode::Kind kind_of(char32_t c) {
  if (('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z')) return unicode::Kind::letter;
  if ('0' <= c && c <= '9') return unicode::Kind::digit;
  return c < 0x80 ? unicode::Kind::other : unicode::kind_of(c);
}

std::size_t special_length(std::u32string_view text) {
  for (const std::u32string_view token : {U"<|startoftext|>", U"<|endoftext|>"})
    if (text.substr(0, token.size()) == token) return token.size();
  return 0;
}

/// How long the next word at `at` is; there is one.
std::size_t word_length(std::u32string_view text, std::size_t at) {
  for (const std::u32string_view ending : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"})
    if (text.substr(at, ending.size()) == ending) return ending.size();
  const unicode::Kind kind = kind_of(text[at]);
  if (kind == unicode::Kind::digit) return 1;
  std::size_t end = at + 1;
  while (end < text.size() && kind_of(text[end]) == kind && !is_space(text[end])) ++end;
  return end - at;
}

/// Calls `plain` with what stands between special tokens and `special` with their numbers, in order.
template <class Plain, class Special>
void split(std::u32string_view text, const std::vector<std::pair<std::u32string, std::int64_t>>& specials, Plain plain,
           Special special) {
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto found = std::find_if(specials.begin(), specials.end(),
                                    [&](const auto& one) { return text.substr(at, one.first.size()) == one.first; });
    if (found == specials.end()) {
      ++at;
      continue;
    }
    plain(text.substr(begin, at - begin));
    special(found->second);
    begin = at = at + found->first.size();
  }
  plain(text.substr(begin));
}

}  // namespace

Tokenizer::Tokenizer(const std::filesystem::path& folder, const TokenizerFacts& facts) : facts_(facts) {
  Json::read(folder / "vocab.json", [this](const Json& vocabulary) {
    for (const auto& [piece, number] : vocabulary.members()) vocabulary_[piece] = number.integer();
  });
  const std::filesystem::path merges = folder / "merges.txt";
  const std::string lines = read_file(merges);
  std::size_t rank = 0;
  for (std::size_t at = 0; at < lines.size();) {
    const std::size_t end = std::min(lines.find('\n', at), lines.size());
    const std::string_view line = std::string_view(lines).substr(at, end - at);
    at = end + 1;
    if (line.empty() || line.substr(0, 8) == "#version") continue;
    const std::size_t space = line.find(' ');
    const std::string_view first = line.substr(0, space);
    const std::string_view second = space == std::string_view::npos ? "" : line.substr(space + 1);
    const auto left = vocabulary_.find(first), right = vocabulary_.find(second);
    const auto whole = vocabulary_.find(std::string(first) + std::string(second));
    if (left == vocabulary_.end() || right == vocabulary_.end() || whole == vocabulary_.end())
      throw Error(ErrorKind::model_damaged, merges.string() + ": speaks of pieces that the vocabulary lacks");
    merges_.insert_or_assign(std::pair(left->second, right->second), Merge{rank++, whole->second});
  }
  Json::read(folder / "tokenizer_config.json", [this](const Json& config) {
    for (const auto& member : config["added_tokens_decoder"].members()) add_special(member.second);
  });
}

void Tokenizer::add_special(const Json& token) {
  const auto found = vocabulary_.find(token["content"].string());
  if (found == vocabulary_.end())
    throw Error(ErrorKind::model_damaged, "speaks of " + token["content"].string() + ", which the vocabulary lacks");
  const bool folded = token["normalized"].boolean();
  const std::u32string text = folded ? normalized(decoded(found->first)) : decoded(found->first);
  Specials& all = folded ? folded_ : verbatim_;
  const auto shorter =
      std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.first.size() < text.size(); });
  all.emplace(shorter, text, found->second);
}

std::vector<std::int64_t> Tokenizer::encode(std::string_view utf8) const {
  std::vector<std::int64_t> words;
  const auto add = [&](std::int64_t id) { words.push_back(id); };
  const std::u32string text = decoded(utf8);
  split(
      text, verbatim_,
      [&](std::u32string_view plain) {
        const std::u32string part = normalized(std::u32string(plain));
        split(part, folded_, [&](std::u32string_view between) { add_words(between, words); }, add);
      },
      add);
  words.resize(std::min(words.size(), facts_.length - 2));
  words.insert(words.begin(), facts_.begin);
  words.push_back(facts_.end);
  words.resize(facts_.length, facts_.pad);
  return words;
}

void Tokenizer::add_words(std::u32string_view text, std::vector<std::int64_t>& out) const {
  for (std::size_t at = 0; at < text.size();) {
    if (is_space(text[at])) {
      ++at;
      continue;
    }
    // Special tokens in capitals come here; they are one word before they are taken to pieces.
    if (const std::size_t length = special_length(text.substr(at)); length != 0) {
      add_word(text.substr(at, 2), out);
      add_word(text.substr(at + 2, length - 4), out);
      add_word(text.substr(at + length - 2, 2), out);
      at += length;
      continue;
    }
    const std::size_t length = word_length(text, at);
    add_word(text.substr(at, length), out);
    at += length;
  }
}

/// Merges the bytes of a word pair by pair: of those that may be merged the earliest, of equal ones the leftmost. A
/// heap, since text without spaces may be long.
void Tokenizer::add_word(std::u32string_view word, std::vector<std::int64_t>& out) const {
  std::string bytes;
  for (const char32_t code : word) append_utf8(bytes, code);
  constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  constexpr std::int64_t kGone = -1;
  std::vector<std::int64_t> parts;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string piece = alphabet()[static_cast<unsigned char>(bytes[i])];
    if (i + 1 == bytes.size()) piece += kEndOfWord;
    const auto found = vocabulary_.find(piece);
    parts.push_back(found == vocabulary_.end() ? facts_.unknown : found->second);
  }
  std::vector<std::size_t> before(parts.size()), after(parts.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    before[i] = i == 0 ? kNone : i - 1;
    after[i] = i + 1 == parts.size() ? kNone : i + 1;
  }
  using Waiting = std::tuple<std::size_t, std::size_t, std::int64_t>;  // rank, place, what it becomes
  std::priority_queue<Waiting, std::vector<Waiting>, std::greater<>> waiting;
  const auto consider = [&](std::size_t left, std::size_t right) {
    if (left == kNone || right == kNone) return;
    const auto found = merges_.find({parts[left], parts[right]});
    if (found != merges_.end()) waiting.emplace(found->second.rank, left, found->second.whole);
  };
  for (std::size_t i = 1; i < parts.size(); ++i) consider(i - 1, i);
  while (!waiting.empty()) {
    const auto [rank, left, whole] = waiting.top();
    waiting.pop();
    const std::size_t right = after[left];
    if (parts[left] == kGone || right == kNone) continue;
    // Its neighbours may have changed meanwhile; it counts if it would still become the same piece.
    const auto found = merges_.find({parts[left], parts[right]});
    if (found == merges_.end() || found->second.whole != whole) continue;
    parts[left] = whole;
    parts[right] = kGone;
    after[left] = after[right];
    if (after[left] != kNone) before[after[left]] = left;
    consider(before[left], left);
    consider(left, after[left]);
  }
  for (const std::int64_t part : parts)
    if (part != kGone) out.push_back(part);
}

}  // namespace cmkit
