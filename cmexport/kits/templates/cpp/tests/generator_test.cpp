// The model on this device: golden pictures, damaged files, wrong input, cancellation, kept pixels.
#include <chrono>
#include <cmath>
#include <fstream>
#include <string>
#include <thread>

#include "check.hpp"
#include "files.hpp"
#include "json.hpp"
#include KIT_HEADER

namespace {

namespace fs = std::filesystem;
using cmkit::ErrorKind;

const cmkit::Model& model() { return KIT::model(); }
const fs::path kModel = check::kit() / "model", kGolden = check::kit() / "golden";

/// A request as the first golden picture of a run has it.
struct Golden {
  cmkit::Picture image, mask;
  cmkit::Request request;

  explicit Golden(const cmkit::Run& run) {
    const cmkit::Json facts = cmkit::Json::read(kGolden / "golden.json");
    for (const cmkit::Json& one : facts["pictures"].array()) {
      if (one["run"].string() != run.name) continue;
      request.seed = std::stoull(one["seed"].string());
      if (!one["label"].is_null()) request.label = one["label"].integer();
      if (!one["prompt"].is_null()) request.prompt = one["prompt"].integer();
      if (!one["text"].is_null()) request.text = one["text"].string();
      if (!one["guidance"].is_null()) request.guidance = static_cast<float>(one["guidance"].number());
      if (!one["image"].is_null()) request.image = &(image = stored(one["image"].string(), run, run.channels));
      if (!one["mask"].is_null()) request.mask = &(mask = stored(one["mask"].string(), run, 1));
      return;
    }
  }
  Golden(const Golden&) = delete;
  Golden& operator=(const Golden&) = delete;

  static cmkit::Picture stored(const std::string& name, const cmkit::Run& run, int channels) {
    const std::string bytes = cmkit::read_file(kGolden / name);
    return {run.width, run.height, channels, {bytes.begin(), bytes.end()}};
  }
};

/// A copy of a folder in which one file is changed; gone with it.
class Copy {
 public:
  Copy(const fs::path& from, const std::string& name) : folder_(fs::temp_directory_path() / ("cmkit_test_" + name)) {
    fs::remove_all(folder_);
    fs::copy(from, folder_, fs::copy_options::recursive);
  }
  ~Copy() { fs::remove_all(folder_); }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;

  const fs::path& path() const { return folder_; }

  void change_byte(const std::string& file, std::streamoff at) const {
    std::fstream stream(folder_ / file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(at);
    const auto changed = static_cast<char>(stream.get() ^ 1);
    stream.seekp(at);
    stream.put(changed);
  }

 private:
  fs::path folder_;
};

void golden_pictures(cmkit::Engine& engine) {
  const cmkit::SelfTest found = engine.self_test(kGolden);
  std::cout << "self-test: worst " << found.worst_db << " dB, " << found.milliseconds << " ms a picture, "
            << found.pictures << " pictures\n";
  CHECK(found.pictures >= 4);
  CHECK(found.milliseconds > 0);
}

void wrong_pictures_are_told(cmkit::Engine& engine) {
  const Copy golden(kGolden, "golden");
  const cmkit::Run& run = model().runs.front();
  const std::string name = cmkit::Json::read(kGolden / "golden.json")["pictures"].array().at(0)["expected"].string();
  cmkit::Picture wrong = Golden::stored(name, run, run.channels);
  for (std::uint8_t& byte : wrong.bytes) byte = static_cast<std::uint8_t>(255 - byte);
  std::ofstream(golden.path() / name, std::ios::binary)
      .write(reinterpret_cast<const char*>(wrong.bytes.data()), static_cast<std::streamsize>(wrong.bytes.size()));
  try {
    engine.self_test(golden.path());
    CHECK(!"a wrong picture passes");
  } catch (const cmkit::Error& error) {
    CHECK(error.kind() == ErrorKind::self_test_failed);
    CHECK(error.decibels() < run.least_db);
  }
}

void damaged_files_are_told() {
  const Copy copy(kModel, "model");
  for (const cmkit::File& file : model().files) {
    const auto middle = static_cast<std::streamoff>(file.bytes / 2);
    copy.change_byte(file.path, middle);
    CHECK_ERROR(model_damaged, cmkit::Engine(model(), copy.path()));
    copy.change_byte(file.path, middle);
  }
  const std::string& first = model().files.front().path;
  fs::resize_file(copy.path() / first, model().files.front().bytes - 1);
  CHECK_ERROR(model_damaged, cmkit::Engine(model(), copy.path()));
  fs::remove(copy.path() / first);
  CHECK_ERROR(model_missing, cmkit::Engine(model(), copy.path()));
  CHECK_ERROR(model_missing, cmkit::Engine(model(), check::kit() / "nowhere"));
}

void wrong_input_is_told(cmkit::Engine& engine) {
  for (const cmkit::Run& run : model().runs) {
    const Golden golden(run);
    if (run.input("label") != nullptr) {
      cmkit::Request request = golden.request;
      request.label = static_cast<std::int64_t>(model().labels.size());
      CHECK_ERROR(bad_input, engine.draw(run.name, request));
      request.label = -1;
      CHECK_ERROR(bad_input, engine.draw(run.name, request));
      request.label.reset();
      CHECK_ERROR(bad_input, engine.draw(run.name, request));
    }
    if (run.input("image") != nullptr) {
      cmkit::Request request = golden.request;
      const cmkit::Picture small{1, 1, 3, {1, 2, 3}};
      request.image = &small;
      CHECK_ERROR(bad_input, engine.draw(run.name, request));
    }
    if (run.input("tokens") != nullptr) CHECK_ERROR(bad_input, engine.draw(run.name, {}));
  }
  CHECK_ERROR(bad_input, engine.draw("no such run", {}));
  cmkit::Options options;
  options.hash = false;
  options.providers = {"NoSuchProvider"};
  CHECK_ERROR(runtime, cmkit::Engine(model(), kModel, options));
}

void drawings_are_cancelled(cmkit::Engine& engine) {
  const cmkit::Run& run = model().runs.front();
  const Golden golden(run);
  cmkit::Cancel before;
  before.request();
  CHECK_ERROR(cancelled, engine.draw(run.name, golden.request, &before));

  cmkit::Cancel during;
  std::chrono::steady_clock::time_point asked;
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    asked = std::chrono::steady_clock::now();
    during.request();
  });
  const auto draw_until_stopped = [&] {
    for (;;) engine.draw(run.name, golden.request, &during);
  };
  CHECK_ERROR(cancelled, draw_until_stopped());
  const std::chrono::duration<double, std::milli> late = std::chrono::steady_clock::now() - asked;
  other.join();
  std::cout << "cancelled " << late.count() << " ms after the request\n";
  CHECK(engine.draw(run.name, golden.request).bytes.size() > 0);
}

void kept_pixels_stay(cmkit::Engine& engine) {
  for (const cmkit::Run& run : model().runs) {
    if (run.input("mask") == nullptr) continue;
    const Golden golden(run);
    const cmkit::Picture drawn = engine.draw(run.name, golden.request);
    std::size_t changed = 0, holes = 0;
    const auto channels = static_cast<std::size_t>(run.channels);
    for (std::size_t i = 0; i < drawn.bytes.size(); ++i) {
      const bool keeps = golden.mask.bytes[i / channels] >= 128;
      if (keeps) CHECK(drawn.bytes[i] == golden.image.bytes[i]);
      holes += keeps ? 0 : 1;
      changed += !keeps && drawn.bytes[i] != golden.image.bytes[i] ? 1 : 0;
    }
    CHECK(changed > holes / 2);
  }
}

void a_seed_gives_its_picture(cmkit::Engine& engine) {
  const cmkit::Run& run = model().runs.front();
  Golden golden(run);
  const cmkit::Picture once = engine.draw(run.name, golden.request), again = engine.draw(run.name, golden.request);
  CHECK(cmkit::psnr(once, again) >= run.least_db);
  if (run.input("noise") == nullptr) return;
  golden.request.seed = 0xFFFFFFFFFFFFFFFF;
  CHECK(cmkit::psnr(once, engine.draw(run.name, golden.request)) < 40);
}

}  // namespace

int main() {
  return check::run([] {
    damaged_files_are_told();
    cmkit::Options options;
    options.threads = 1;
    cmkit::Engine engine(model(), kModel, options);
    golden_pictures(engine);
    wrong_pictures_are_told(engine);
    wrong_input_is_told(engine);
    drawings_are_cancelled(engine);
    kept_pixels_stay(engine);
    a_seed_gives_its_picture(engine);
  });
}
