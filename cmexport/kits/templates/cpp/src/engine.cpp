#include "cmkit/engine.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <limits>
#include <map>
#include <mutex>

#include "cmkit/noise.hpp"
#include "files.hpp"
#include "json.hpp"
#include "runtime.hpp"
#include "sha256.hpp"

namespace cmkit {
namespace {

[[noreturn]] void bad_input(const std::string& what) { throw Error(ErrorKind::bad_input, what); }

std::string size_of(int width, int height, int channels) {
  return std::to_string(width) + " x " + std::to_string(height) + " pixels of " + std::to_string(channels) +
         (channels == 1 ? " byte" : " bytes");
}

std::size_t count_of(const std::vector<std::int64_t>& shape, std::size_t from = 0) {
  std::size_t count = 1;
  for (std::size_t i = from; i < shape.size(); ++i) count *= static_cast<std::size_t>(shape[i]);
  return count;
}

/// The memory of one input: one of both.
struct Buffer {
  std::vector<float> floats;
  std::vector<std::int64_t> integers;
};

/// `noise` is stream 0, the steps of `renoise` (K - 1, 1, C, H, W) are streams 1 and on.
std::vector<float> noise_of(const Tensor& tensor, std::uint64_t seed) {
  std::vector<float> values(count_of(tensor.shape));
  const bool first = tensor.name == "noise";
  const std::size_t each = count_of(tensor.shape, first ? 0 : 1);
  for (std::size_t k = 0; k * each < values.size(); ++k)
    noise(seed, static_cast<std::uint32_t>(first ? 0 : k + 1), values.data() + k * each, each);
  return values;
}

std::int64_t choice(const std::optional<std::int64_t>& given, std::size_t count, const char* name) {
  if (!given) bad_input(std::string("this model takes a ") + name);
  if (*given < 0 || static_cast<std::uint64_t>(*given) >= count)
    bad_input(std::string(name) + " " + std::to_string(*given) + " is not one of 0 to " + std::to_string(count - 1));
  return *given;
}

const Picture& picture(const Picture* given, const Run& run, int channels, const char* name) {
  if (given == nullptr) bad_input(run.name + " takes a picture called " + name);
  const auto bytes =
      static_cast<std::size_t>(run.width) * static_cast<std::size_t>(run.height) * static_cast<std::size_t>(channels);
  if (given->width != run.width || given->height != run.height || given->channels != channels ||
      given->bytes.size() != bytes)
    bad_input(std::string(name) + " has " + size_of(given->width, given->height, given->channels) +
              "; this model takes " + size_of(run.width, run.height, channels) + ": see fit() and fit_mask()");
  return *given;
}

std::uint64_t seed_of(const std::string& digits) {
  std::uint64_t seed = 0;
  const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), seed);
  if (failed != std::errc() || end != digits.data() + digits.size())
    throw Error(ErrorKind::model_damaged, "golden.json: a seed is no number: " + digits);
  return seed;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

struct Engine::Inside {
  Inside(const Model& facts, const std::filesystem::path& where, const Options& how)
      : model(facts), folder(where), options(how) {}

  const Model& model;
  std::filesystem::path folder;
  Options options;
  Handle<OrtEnv> env;
  Encoder encoder;
  std::mutex mutex;
  std::map<std::string, Handle<OrtSession>> sessions;

  void check_files(bool hash) const {
    for (const File& file : model.files) {
      const std::filesystem::path path = folder / path_of(file.path);
      std::error_code failed;
      const std::uintmax_t bytes = std::filesystem::file_size(path, failed);
      if (failed) throw Error(ErrorKind::model_missing, path.string() + ": is missing; copy the model's folder again");
      if (bytes != file.bytes)
        throw Error(ErrorKind::model_damaged, path.string() + ": has " + std::to_string(bytes) + " bytes instead of " +
                                                  std::to_string(file.bytes) + "; copy it again");
      if (!hash) continue;
      if (const std::string found = sha256_of(path); found != file.sha256)
        throw Error(ErrorKind::model_damaged,
                    path.string() + ": is not the kit's file (SHA-256 " + found + "); copy it again");
    }
  }

  const Run& run_of(std::string_view name) const {
    for (const Run& run : model.runs)
      if (run.name == name) return run;
    bad_input("this model has no run called " + std::string(name));
  }

  OrtSession* session(const Graph& graph) {
    const std::lock_guard lock(mutex);
    Handle<OrtSession>& found = sessions[graph.file];
    if (!found) {
      try {
        found = open_session(env.get(), folder / path_of(graph.file), options);
      } catch (const Error&) {
        check_files(true);  // a damaged file is the likelier reason
        throw;
      }
    }
    return found.get();
  }

  Buffer fill(const Tensor& tensor, const Run& run, const Request& request) const {
    if (tensor.name == "noise" || tensor.name == "renoise") return {noise_of(tensor, request.seed), {}};
    if (tensor.name == "label") return {{}, {choice(request.label, model.labels.size(), "label")}};
    if (tensor.name == "prompt") return {{}, {choice(request.prompt, model.prompts.size(), "prompt")}};
    if (tensor.name == "image") return {to_floats(picture(request.image, run, run.channels, "image")), {}};
    if (tensor.name == "mask") return {kept(picture(request.mask, run, 1, "mask")), {}};
    if (tensor.name == "tokens") {
      if (!request.text) bad_input("this model takes a text");
      return {{}, encoder(*request.text)};
    }
    if (tensor.name == "guidance") {
      // Also false for NaN.
      if (!(request.guidance && tensor.least <= *request.guidance && *request.guidance <= tensor.most))
        bad_input("this model takes a guidance of " + std::to_string(tensor.least) + " to " +
                  std::to_string(tensor.most));
      return {{*request.guidance}, {}};
    }
    bad_input("this kit does not know the model's input " + tensor.name);
  }

  Picture finished(const OrtValue* value, const Run& run, const Request& request) const {
    const Tensor& output = run.graphs.back().output;
    const void* values = values_of(value, output);
    Picture made{run.width, run.height, run.channels, {}};
    if (output.element == Element::uint8) {
      const auto* bytes = static_cast<const std::uint8_t*>(values);
      made.bytes.assign(bytes, bytes + count_of(output.shape));
    } else {
      made = from_floats(static_cast<const float*>(values), run.width, run.height, run.channels);
    }
    if (run.input("mask") == nullptr) return made;
    // The graph keeps them as well, but a graph in few bits only nearly: here they are kept to the last byte.
    const auto channels = static_cast<std::size_t>(run.channels);
    for (std::size_t i = 0; i < request.mask->bytes.size(); ++i)
      if (request.mask->bytes[i] >= 128)
        std::copy_n(request.image->bytes.begin() + static_cast<std::ptrdiff_t>(i * channels), channels,
                    made.bytes.begin() + static_cast<std::ptrdiff_t>(i * channels));
    return made;
  }
};

Engine::Engine(const Model& model, const std::filesystem::path& folder, const Options& options)
    : inside_(std::make_unique<Inside>(model, folder, options)) {
  inside_->check_files(options.hash);
  inside_->env = open_env();
  if (model.open_encoder) inside_->encoder = model.open_encoder(folder);
  for (const Graph& graph : model.runs.front().graphs) inside_->session(graph);
}

Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

const Model& Engine::model() const noexcept { return inside_->model; }

Picture Engine::draw(std::string_view name, const Request& request, Cancel* cancel) {
  const Run& run = inside_->run_of(name);
  std::vector<Buffer> buffers;
  buffers.reserve(run.inputs.size());
  std::map<std::string, Handle<OrtValue>> values;
  for (const Tensor& tensor : run.inputs) {
    Buffer& buffer = buffers.emplace_back(inside_->fill(tensor, run, request));
    const bool real = tensor.element == Element::float32;
    void* data = real ? static_cast<void*>(buffer.floats.data()) : static_cast<void*>(buffer.integers.data());
    const std::size_t bytes =
        real ? buffer.floats.size() * sizeof(float) : buffer.integers.size() * sizeof(std::int64_t);
    values[tensor.name] = tensor_over(data, bytes, tensor.shape, tensor.element);
  }
  for (const Graph& graph : run.graphs) {
    std::vector<const char*> names;
    std::vector<const OrtValue*> inputs;
    for (const Tensor& tensor : graph.inputs) {
      names.push_back(tensor.name.c_str());
      inputs.push_back(values.at(tensor.name).get());
    }
    values[graph.output.name] = cmkit::run(inside_->session(graph), names, inputs, graph.output.name, cancel);
  }
  return inside_->finished(values.at(run.graphs.back().output.name).get(), run, request);
}

SelfTest Engine::self_test(const std::filesystem::path& golden, Cancel* cancel) {
  const Json facts = Json::read(golden / "golden.json");
  SelfTest found{std::numeric_limits<double>::infinity(), 0, 0};
  std::vector<double> times;
  std::string failed;
  for (const Json& one : facts["pictures"].array()) {
    const Run& run = inside_->run_of(one["run"].string());
    const auto stored = [&](const char* name, int channels) {
      const std::string bytes = read_file(golden / path_of(one[name].string()));
      return Picture{run.width, run.height, channels, {bytes.begin(), bytes.end()}};
    };
    Request request;
    request.seed = seed_of(one["seed"].string());
    if (!one["label"].is_null()) request.label = one["label"].integer();
    if (!one["prompt"].is_null()) request.prompt = one["prompt"].integer();
    if (!one["text"].is_null()) request.text = one["text"].string();
    if (!one["guidance"].is_null()) request.guidance = static_cast<float>(one["guidance"].number());
    Picture image, mask;
    if (!one["image"].is_null()) request.image = &(image = stored("image", run.channels));
    if (!one["mask"].is_null()) request.mask = &(mask = stored("mask", 1));
    const auto begin = std::chrono::steady_clock::now();
    const Picture drawn = draw(run.name, request, cancel);
    const auto taken = std::chrono::steady_clock::now() - begin;
    times.push_back(std::chrono::duration<double, std::milli>(taken).count());
    const double db = psnr(drawn, stored("expected", run.channels));
    found.worst_db = std::min(found.worst_db, db);
    ++found.pictures;
    if (db < run.least_db && failed.empty())
      failed = run.name + " with seed " + std::to_string(request.seed) + " is " + std::to_string(db) +
               " dB from the stored picture; " + std::to_string(run.least_db) + " are needed";
  }
  if (times.empty()) throw Error(ErrorKind::model_damaged, (golden / "golden.json").string() + ": holds no pictures");
  if (!failed.empty()) throw Error(failed, found.worst_db);
  found.milliseconds = median(times);
  return found;
}

}  // namespace cmkit
