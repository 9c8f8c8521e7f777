#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cmkit {

class Json;

/// Numbers around the words of a prompt.
struct TokenizerFacts {
  std::int64_t begin, end, pad;
  std::int64_t unknown;  ///< for a byte that the vocabulary lacks
  std::size_t length;    ///< tokens of an encoded prompt
};

/// CLIP's byte-level BPE tokenizer: NFC, white space folded, small letters, words split, then pairs of bytes merged.
class Tokenizer {
 public:
  /// Reads vocab.json, merges.txt and tokenizer_config.json. Throws model_missing or model_damaged.
  Tokenizer(const std::filesystem::path& folder, const TokenizerFacts& facts);

  /// `length` numbers: begin, as many words as there is room for, end, then pad.
  std::vector<std::int64_t> encode(std::string_view utf8) const;

 private:
  using Specials = std::vector<std::pair<std::u32string, std::int64_t>>;  // the longest first
  struct Merge {
    std::size_t rank;
    std::int64_t whole;
  };

  void add_special(const Json& token);
  void add_words(std::u32string_view text, std::vector<std::int64_t>& out) const;
  void add_word(std::u32string_view word, std::vector<std::int64_t>& out) const;

  TokenizerFacts facts_;
  std::map<std::string, std::int64_t, std::less<>> vocabulary_;
  std::map<std::pair<std::int64_t, std::int64_t>, Merge> merges_;
  Specials verbatim_;
  Specials folded_;
};

}  // namespace cmkit
