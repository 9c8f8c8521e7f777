// exhaustive HASH: whether the bits of all 2^32 values of the noise, in the words' order, have this FNV-1a hash.
#include <cstdio>
#include <cstring>
#include <string>

#include "cmkit/noise.hpp"

int main(int, char** arguments) {
  std::uint32_t hash = 2166136261U, word = 0;
  do {
    const float value = cmkit::normal(word);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    hash = (hash ^ bits) * 16777619U;
  } while (++word != 0);
  std::printf("all 2^32 words: %08x\n", hash);
  return hash == std::stoul(arguments[1], nullptr, 16) ? 0 : 1;
}
