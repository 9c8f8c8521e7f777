#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cmkit/cancel.hpp"
#include "cmkit/error.hpp"
#include "cmkit/model.hpp"
#include "cmkit/picture.hpp"

namespace cmkit {

struct Options {
  /// Threads of one drawing; 0 leaves it to ONNX Runtime, which takes every core.
  int threads = 0;
  /// ONNX Runtime's execution providers by name, the first one first; the CPU takes what they leave.
  std::vector<std::string> providers;
  /// Whether to compare every file's SHA-256 on opening; presence and size are always checked.
  bool hash = true;
};

/// What a picture is drawn from. A run needs what its graphs take and leaves the rest alone.
struct Request {
  std::uint64_t seed = 0;
  std::optional<std::int64_t> label;
  std::optional<std::int64_t> prompt;
  std::optional<std::string> text;
  std::optional<float> guidance;
  const Picture* image = nullptr;
  const Picture* mask = nullptr;
};

struct SelfTest {
  double worst_db;      ///< the worst picture's PSNR against the stored one; infinite if all are equal
  double milliseconds;  ///< of one picture, the median
  int pictures;
};

/// Draws what a model's runs describe. The typed class of the generated header stands on it.
///
/// Drawings may run at the same time in several threads. Everything throws cmkit::Error.
class Engine {
 public:
  /// Checks the files and opens the graphs of the first run; those of other runs are opened when they are first used.
  Engine(const Model& model, const std::filesystem::path& folder, const Options& options = {});
  ~Engine();
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;

  const Model& model() const noexcept;

  Picture draw(std::string_view run, const Request& request, Cancel* cancel = nullptr);

  /// Draws the pictures of the folder golden/ and compares. Throws self_test_failed, with the worst picture's dB, if
  /// one lies below its run's gate.
  SelfTest self_test(const std::filesystem::path& golden, Cancel* cancel = nullptr);

 private:
  struct Inside;
  std::unique_ptr<Inside> inside_;
};

}  // namespace cmkit
