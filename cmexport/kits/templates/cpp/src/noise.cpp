// This file must be compiled with -ffp-contract=off: a fused multiply-add changes 2 of the 2^32 values (words 553165406
// and 3741801889). GCC has no pragma for it, so CMakeLists.txt sets the flag; the tests know both words.
#if defined(__FAST_MATH__)
#error "noise.cpp must not be compiled with -ffast-math: the values would differ from other devices'"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#include "cmkit/noise.hpp"

#include <cfloat>
#include <cmath>

namespace cmkit {
namespace {

static_assert(FLT_EVAL_METHOD == 0, "x87 arithmetic keeps more bits than float64: compile with -msse2 -mfpmath=sse");

using Polynomial = std::array<double, 8>;

// AS 241, PPND16: middle (numerator, denominator) and tail. Its third region begins at a square root of 5, which no
// word reaches: sqrt(33 ln 2) = 4.78.
constexpr Polynomial kMiddle = {2.5090809287301226727e+3, 3.3430575583588128105e+4, 6.7265770927008700853e+4,
                                4.5921953931549871457e+4, 1.3731693765509461125e+4, 1.9715909503065514427e+3,
                                1.3314166789178437745e+2, 3.3871328727963666080e+0};
constexpr Polynomial kMiddleBelow = {
    5.2264952788528545610e+3, 2.8729085735721942674e+4, 3.9307895800092710610e+4, 2.1213794301586595867e+4,
    5.3941960214247511077e+3, 6.8718700749205790830e+2, 4.2313330701600911252e+1, 1.0};
constexpr Polynomial kTail = {7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
                              1.27045825245236838258e+0, 3.64784832476320460504e+0, 5.76949722146069140550e+0,
                              4.63033784615654529590e+0, 1.42343711074968357734e+0};
constexpr Polynomial kTailBelow = {
    1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
    6.89767334985100004550e-1, 1.67638483018380384940e+0, 2.05319162663775882187e+0, 1.0};

double horner(const Polynomial& coefficients, double x) noexcept {
  double sum = coefficients[0];
  for (std::size_t i = 1; i < coefficients.size(); ++i) sum = sum * x + coefficients[i];
  return sum;
}

/// -ln(n * 2^-33) for an odd integer n below 2^33: the series of ln((1 + s) / (1 - s)).
double minus_log(double n) noexcept {
  int exponent = 0;
  double m = std::frexp(n, &exponent);
  if (m < 0.70710678118654752) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1), square = s * s;
  double sum = 2.0 / 23;
  for (int divisor = 21; divisor > 0; divisor -= 2) sum = sum * square + 2.0 / divisor;
  return -((exponent - 33) * 0.69314718055994530942 + s * sum);
}

}  // namespace

Words philox(Words counter, std::uint32_t key0, std::uint32_t key1) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = 0xD2511F53ULL * counter[0], second = 0xCD9E8D57ULL * counter[2];
    counter = {static_cast<std::uint32_t>(second >> 32) ^ counter[1] ^ key0, static_cast<std::uint32_t>(second),
               static_cast<std::uint32_t>(first >> 32) ^ counter[3] ^ key1, static_cast<std::uint32_t>(first)};
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  return counter;
}

float normal(std::uint32_t word) noexcept {
  const double n = word * 2.0 + 1.0;  // the probability is n * 2^-33, exactly
  const double q = n * 0x1p-33 - 0.5;
  if (std::fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return static_cast<float>(q * horner(kMiddle, r) / horner(kMiddleBelow, r));
  }
  const double r = std::sqrt(minus_log(q < 0 ? n : 0x1p33 - n)) - 1.6;
  const double tail = horner(kTail, r) / horner(kTailBelow, r);
  return static_cast<float>(q < 0 ? -tail : tail);
}

void noise(std::uint64_t seed, std::uint32_t stream, float* values, std::size_t count) noexcept {
  const auto key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
  for (std::size_t done = 0; done < count; done += 4) {
    const std::uint64_t block = done / 4;
    const Words words =
        philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), stream, 0}, key0, key1);
    for (std::size_t i = 0; i < 4 && done + i < count; ++i) values[done + i] = normal(words[i]);
  }
}

}  // namespace cmkit
