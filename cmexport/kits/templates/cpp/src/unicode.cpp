#include "unicode.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "unicode_tables.hpp"

namespace cmkit::unicode {
namespace {

/// Reads numbers of base64 digits, the lowest 5 bits first; 32 is added to a digit that another follows.
class Numbers {
 public:
  explicit Numbers(std::string_view text) : text_(text) {}

  bool more() const { return at_ < text_.size(); }

  std::uint32_t next() {
    std::uint32_t number = 0, digit = 32;
    for (int shift = 0; digit >= 32; shift += 5) {
      digit = digit_of(text_[at_++]);
      number |= (digit & 31) << shift;
    }
    return number;
  }

  /// A distance from `base`, doubled, with one added to negative ones.
  char32_t next_from(char32_t base) {
    const std::uint32_t number = next();
    return number % 2 == 0 ? base + number / 2 : base - number / 2;
  }

 private:
  static std::uint32_t digit_of(char c) {
    if ('A' <= c && c <= 'Z') return static_cast<std::uint32_t>(c - 'A');
    if ('a' <= c && c <= 'z') return static_cast<std::uint32_t>(c - 'a' + 26);
    if ('0' <= c && c <= '9') return static_cast<std::uint32_t>(c - '0' + 52);
    return c == '+' ? 62 : 63;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

/// Characters begin, begin + step, ... before end, and what is known of them.
struct Range {
  char32_t begin, end;
  std::uint32_t step;
  std::int32_t value;
};

using Ranges = std::vector<Range>;

Ranges ranges(std::string_view table, bool valued) {
  Ranges all;
  char32_t end = 0;
  for (Numbers numbers(table); numbers.more();) {
    const char32_t begin = end + numbers.next();
    end = begin + numbers.next();
    all.push_back({begin, end, 1, valued ? static_cast<std::int32_t>(numbers.next()) : 1});
  }
  return all;
}

Ranges distances(std::string_view table) {
  Ranges all;
  char32_t end = 0;
  for (Numbers numbers(table); numbers.more();) {
    const char32_t begin = end + numbers.next();
    const std::uint32_t count = numbers.next(), step = numbers.next();
    end = begin + (count - 1) * step + 1;
    all.push_back({begin, end, step, static_cast<std::int32_t>(numbers.next_from(0))});
  }
  return all;
}

/// What is known of a character, 0 if nothing.
std::int32_t value_of(const Ranges& all, char32_t code) {
  const auto after =
      std::upper_bound(all.begin(), all.end(), code, [](char32_t c, const Range& range) { return c < range.begin; });
  if (after == all.begin()) return 0;
  const Range& range = *std::prev(after);
  return code < range.end && (code - range.begin) % range.step == 0 ? range.value : 0;
}

struct Compositions {
  std::map<char32_t, std::pair<char32_t, char32_t>> apart;  ///< the second is 0 where one character becomes another
  std::map<std::pair<char32_t, char32_t>, char32_t> joined;

  explicit Compositions(std::string_view table) {
    char32_t end = 0, first = 0, second = 0;
    for (Numbers numbers(table); numbers.more();) {
      const char32_t code = end + numbers.next();
      const std::uint32_t kind = numbers.next();
      end = code + 1;
      first = numbers.next_from(first);
      if (kind > 0) second = numbers.next_from(second);
      apart[code] = {first, kind > 0 ? second : 0};
      if (kind == 2) joined[{first, second}] = code;
    }
  }
};

const Compositions& compositions() {
  static const Compositions all(tables::compositions);
  return all;
}

std::int32_t mark_class(char32_t code) {
  static const Ranges marks = ranges(tables::marks, true);
  return value_of(marks, code);
}

// Hangul: 19 leading consonants, 21 vowels, 27 trailing consonants or none (The Unicode Standard, 3.12).
constexpr char32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTrail = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTrails = 28;

void append_apart(std::u32string& out, char32_t code) {
  if (kSyllable <= code && code < kSyllable + kLeads * kVowels * kTrails) {
    const char32_t index = code - kSyllable;
    out += kLead + index / (kVowels * kTrails);
    out += kVowel + index / kTrails % kVowels;
    if (index % kTrails != 0) out += kTrail + index % kTrails;
    return;
  }
  const auto found = compositions().apart.find(code);
  if (found == compositions().apart.end()) {
    out += code;
    return;
  }
  append_apart(out, found->second.first);
  if (found->second.second != 0) append_apart(out, found->second.second);
}

/// The character that two become, or 0.
char32_t joined(char32_t first, char32_t second) {
  if (kLead <= first && first < kLead + kLeads && kVowel <= second && second < kVowel + kVowels)
    return kSyllable + ((first - kLead) * kVowels + (second - kVowel)) * kTrails;
  const bool open =
      kSyllable <= first && first < kSyllable + kLeads * kVowels * kTrails && (first - kSyllable) % kTrails == 0;
  if (open && kTrail < second && second < kTrail + kTrails) return first + (second - kTrail);
  const auto found = compositions().joined.find({first, second});
  return found == compositions().joined.end() ? 0 : found->second;
}

}  // namespace

Kind kind_of(char32_t code) {
  static const Ranges letters = ranges(tables::letters, false), digits = ranges(tables::digits, false);
  if (value_of(letters, code) != 0) return Kind::letter;
  return value_of(digits, code) != 0 ? Kind::digit : Kind::other;
}

std::u32string lower(const std::u32string& text) {
  static const Ranges moves = distances(tables::lower);
  std::u32string out;
  for (const char32_t code : text) {
    if (code == 0x130)
      out += U"i\u0307";
    else
      out += static_cast<char32_t>(static_cast<std::int32_t>(code) + value_of(moves, code));
  }
  return out;
}

std::u32string nfc(const std::u32string& text) {
  std::u32string apart;
  for (const char32_t code : text) append_apart(apart, code);
  const auto is_mark = [](char32_t code) { return mark_class(code) != 0; };
  for (auto begin = apart.begin(); (begin = std::find_if(begin, apart.end(), is_mark)) != apart.end();) {
    const auto end = std::find_if_not(begin, apart.end(), is_mark);
    std::stable_sort(begin, end, [](char32_t a, char32_t b) { return mark_class(a) < mark_class(b); });
    begin = end;
  }
  std::u32string out;
  std::size_t starter = std::u32string::npos;
  std::int32_t last = 0;  // the class of what stands between the starter and the next character; 0: nothing
  for (const char32_t code : apart) {
    const std::int32_t mark = mark_class(code);
    const bool reaches = starter != std::u32string::npos && (last == 0 ? out.size() == starter + 1 : last < mark);
    if (const char32_t whole = reaches ? joined(out[starter], code) : 0; whole != 0) {
      out[starter] = whole;
      continue;
    }
    if (mark == 0) starter = out.size();
    last = mark;
    out += code;
  }
  return out;
}

}  // namespace cmkit::unicode
