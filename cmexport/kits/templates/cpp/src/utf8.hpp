#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cmkit {

constexpr std::uint32_t kReplacement = 0xFFFD;

/// Appends a code point below 0x110000.
void append_utf8(std::string& out, std::uint32_t code);

/// Code points of a text; what is no UTF-8 becomes U+FFFD as Unicode recommends: one for each longest broken sequence.
std::u32string decoded(std::string_view text);

}  // namespace cmkit
