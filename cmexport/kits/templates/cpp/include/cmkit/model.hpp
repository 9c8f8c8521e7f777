#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

/// What a kit knows of its model; the values are in the generated file src/NAME.cpp.
namespace cmkit {

enum class Element { float32, int64, uint8 };

/// An input or output of a graph. Pictures are (1, C, H, W) as float32 and (1, H, W, C) as uint8.
struct Tensor {
  std::string name;
  Element element;
  std::vector<std::int64_t> shape;
  float least = -std::numeric_limits<float>::infinity();  ///< numbers that an input takes
  float most = std::numeric_limits<float>::infinity();
};

struct Graph {
  std::string file;  ///< below the model's folder
  std::vector<Tensor> inputs;
  Tensor output;
};

/// Graphs that make one picture, in order: each takes by name what the caller or an earlier graph gives.
struct Run {
  std::string name;
  std::vector<Graph> graphs;
  std::vector<Tensor> inputs;  ///< what the caller gives
  int width;
  int height;
  int channels;
  double least_db;  ///< the self-test's gate

  /// The input of that name, or nullptr.
  const Tensor* input(std::string_view input_name) const noexcept {
    for (const Tensor& tensor : inputs)
      if (tensor.name == input_name) return &tensor;
    return nullptr;
  }
};

struct File {
  std::string path;  ///< below the model's folder
  std::string sha256;
  std::uintmax_t bytes;
};

/// Turns UTF-8 text into the numbers that a graph takes as `tokens`.
using Encoder = std::function<std::vector<std::int64_t>(std::string_view)>;

struct Model {
  std::string name;
  std::vector<File> files;
  std::vector<std::string> labels;   ///< empty if no graph takes a label
  std::vector<std::string> prompts;  ///< empty if no graph takes one of a closed list
  std::vector<Run> runs;
  /// Opens the tokenizer in the model's folder; empty if no graph takes tokens.
  std::function<Encoder(const std::filesystem::path&)> open_encoder;
};

}  // namespace cmkit
