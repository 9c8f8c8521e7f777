// The FNV-1a hash of the bits of all 2^32 values of the noise, in the words' order.
#include <cstdio>
#include <cstring>

#include "cmkit/noise.hpp"

int main() {
    std::uint32_t hash = 2166136261U, word = 0;
    do {
        const float value = cmkit::normal(word);
        std::uint32_t bits = 0;
        std::memcpy(&bits, &value, sizeof bits);
        hash = (hash ^ bits) * 16777619U;
    } while (++word != 0);
    std::printf("%08x\n", hash);
}
