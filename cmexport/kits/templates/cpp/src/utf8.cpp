#include "utf8.hpp"

#include <cstddef>

namespace cmkit {
namespace {

struct Sequence {
  std::size_t length;       ///< 0: no sequence begins with this byte
  unsigned char low, high;  ///< the second byte's range, which shuts out long forms, surrogates and beyond 10FFFF
};

Sequence sequence_of(unsigned char first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2 || first > 0xF4) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first < 0xF0)
    return {3, static_cast<unsigned char>(first == 0xE0 ? 0xA0 : 0x80),
            static_cast<unsigned char>(first == 0xED ? 0x9F : 0xBF)};
  return {4, static_cast<unsigned char>(first == 0xF0 ? 0x90 : 0x80),
          static_cast<unsigned char>(first == 0xF4 ? 0x8F : 0xBF)};
}

}  // namespace

void append_utf8(std::string& out, std::uint32_t code) {
  const auto add = [&out](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    add(code);
  } else if (code < 0x800) {
    add(0xC0 | code >> 6);
    add(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    add(0xE0 | code >> 12);
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  } else {
    add(0xF0 | code >> 18);
    add(0x80 | (code >> 12 & 0x3F));
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  }
}

std::u32string decoded(std::string_view text) {
  std::u32string out;
  for (std::size_t at = 0; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at]);
    const auto [length, low, high] = sequence_of(first);
    std::uint32_t code = length < 2 ? first : first & (0xFFU >> (length + 1));
    std::size_t taken = 1;
    for (; taken < length && at + taken < text.size(); ++taken) {
      const auto byte = static_cast<unsigned char>(text[at + taken]);
      if (byte < (taken == 1 ? low : 0x80) || byte > (taken == 1 ? high : 0xBF)) break;
      code = code << 6 | (byte & 0x3FU);
    }
    out += static_cast<char32_t>(taken == length ? code : kReplacement);
    at += taken;
  }
  return out;
}

}  // namespace cmkit
