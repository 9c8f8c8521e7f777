#pragma once

#include <string>

/// As much of Unicode as CLIP's tokenizer needs, of the version that cmexport's Python had.
namespace cmkit::unicode {

enum class Kind { letter, digit, other };

/// The general category, L*, N* or something else.
Kind kind_of(char32_t code);

/// Small letters, each character by itself: a capital sigma never becomes the final one.
std::u32string lower(const std::u32string& text);

/// Normalization form C (Unicode Standard Annex 15).
std::u32string nfc(const std::u32string& text);

}  // namespace cmkit::unicode
