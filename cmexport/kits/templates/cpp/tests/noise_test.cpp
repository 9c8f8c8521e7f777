// The noise against golden/golden.json, which NumPy made: Random123's vectors, words at the ends, in the middle and the
// two that change where products are fused with sums, and whole streams.
#include "cmkit/noise.hpp"

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "check.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace {

std::uint32_t word_of(const cmkit::Json& hex) {
  return static_cast<std::uint32_t>(std::stoull(hex.string(), nullptr, 16));
}

std::uint32_t bits(float value) {
  std::uint32_t word = 0;
  std::memcpy(&word, &value, sizeof word);
  return word;
}

std::string sha256_of_values(const std::vector<float>& values) {
  const std::filesystem::path file = std::filesystem::temp_directory_path() / "cmkit_noise_test.bin";
  {
    std::ofstream out(file, std::ios::binary);
    for (const float value : values)
      for (int shift = 0; shift < 32; shift += 8) out.put(static_cast<char>(bits(value) >> shift));
  }
  const std::string found = cmkit::sha256_of(file);
  std::filesystem::remove(file);
  return found;
}

void test() {
  const cmkit::Json vectors = cmkit::Json::read(check::kit() / "golden" / "golden.json")["noise"];
  for (const cmkit::Json& one : vectors["philox"].array()) {
    cmkit::Words counter{}, wanted{};
    for (std::size_t i = 0; i < 4; ++i) counter[i] = word_of(one["counter"].array().at(i));
    for (std::size_t i = 0; i < 4; ++i) wanted[i] = word_of(one["result"].array().at(i));
    CHECK(cmkit::philox(counter, word_of(one["key"].array().at(0)), word_of(one["key"].array().at(1))) == wanted);
  }
  CHECK(vectors["words"].array().size() >= 7);
  for (const cmkit::Json& one : vectors["words"].array())
    CHECK(bits(cmkit::normal(word_of(one["word"]))) == word_of(one["bits"]));
  for (const cmkit::Json& one : vectors["streams"].array()) {
    const std::uint64_t seed = std::stoull(one["seed"].string());
    const auto stream = static_cast<std::uint32_t>(one["stream"].integer());
    std::vector<float> values(static_cast<std::size_t>(one["count"].integer()));
    cmkit::noise(seed, stream, values.data(), values.size());
    for (std::size_t i = 0; i < 4; ++i) CHECK(bits(values[i]) == word_of(one["first"].array().at(i)));
    CHECK(sha256_of_values(values) == one["sha256"].string());
    // However many are drawn, the first are the same.
    for (std::size_t count : {1U, 5U, 6U, 7U}) {
      std::vector<float> few(count + 1, 9.0F);
      cmkit::noise(seed, stream, few.data(), count);
      CHECK(std::memcmp(few.data(), values.data(), count * sizeof(float)) == 0);
      CHECK(few.back() == 9.0F);
    }
  }
}

}  // namespace

int main() { return check::run(test); }
