#include <algorithm>
#include <new>

#include "cmkit/cmkit.h"
#include "cmkit/engine.hpp"
#include "cmkit/noise.hpp"
#include "files.hpp"

struct cmkit_generator {
  cmkit::Engine engine;
};

struct cmkit_cancel {
  cmkit::Cancel cancel;
};

namespace {

thread_local std::string last_error;

const cmkit::Model& facts(const cmkit_model* model) { return *reinterpret_cast<const cmkit::Model*>(model); }

/// Runs `action`; what it throws becomes a status and a sentence.
template <class Action>
cmkit_status guarded(Action action) noexcept {
  try {
    last_error.clear();
    action();
    return CMKIT_OK;
  } catch (const cmkit::Error& error) {
    last_error = error.what();
    return static_cast<cmkit_status>(error.kind());
  } catch (const std::exception& error) {
    last_error = error.what();
    return CMKIT_RUNTIME;
  }
}

template <class T>
T* given(T* pointer, const char* name) {
  if (pointer == nullptr) throw cmkit::Error(cmkit::ErrorKind::bad_input, std::string(name) + " is NULL");
  return pointer;
}

const cmkit::Run& run_of(const cmkit::Model& model, const char* name) {
  if (name == nullptr) return model.runs.front();
  for (const cmkit::Run& run : model.runs)
    if (run.name == name) return run;
  throw cmkit::Error(cmkit::ErrorKind::bad_input, std::string("this model has no run called ") + name);
}

std::size_t bytes_of(const cmkit::Run& run, int channels) {
  return static_cast<std::size_t>(run.width) * static_cast<std::size_t>(run.height) *
         static_cast<std::size_t>(channels);
}

/// The caller's bytes as a picture; none stays none.
cmkit::Picture copied(const std::uint8_t* bytes, const cmkit::Run& run, int channels) {
  return {run.width, run.height, channels, {bytes, bytes + (bytes == nullptr ? 0 : bytes_of(run, channels))}};
}

const char* name_at(const std::vector<std::string>& names, std::int64_t index) {
  const bool there = 0 <= index && static_cast<std::uint64_t>(index) < names.size();
  return there ? names[static_cast<std::size_t>(index)].c_str() : nullptr;
}

}  // namespace

cmkit_status cmkit_open(const cmkit_model* model, const char* folder, std::int32_t threads, std::int32_t hash,
                        cmkit_generator** out) {
  return guarded([&] {
    cmkit::Options options;
    options.threads = threads;
    options.hash = hash != 0;
    *given(out, "out") = nullptr;
    *out = new cmkit_generator{
        cmkit::Engine(facts(given(model, "model")), cmkit::path_of(given(folder, "folder")), options)};
  });
}

void cmkit_close(cmkit_generator* generator) { delete generator; }

cmkit_status cmkit_size(const cmkit_generator* generator, const char* run, std::int32_t* width, std::int32_t* height,
                        std::int32_t* channels) {
  return guarded([&] {
    const cmkit::Run& found = run_of(given(generator, "generator")->engine.model(), run);
    *given(width, "width") = found.width;
    *given(height, "height") = found.height;
    *given(channels, "channels") = found.channels;
  });
}

std::int64_t cmkit_label_count(const cmkit_model* model) {
  return static_cast<std::int64_t>(facts(model).labels.size());
}

const char* cmkit_label(const cmkit_model* model, std::int64_t index) { return name_at(facts(model).labels, index); }

std::int64_t cmkit_prompt_count(const cmkit_model* model) {
  return static_cast<std::int64_t>(facts(model).prompts.size());
}

const char* cmkit_prompt(const cmkit_model* model, std::int64_t index) { return name_at(facts(model).prompts, index); }

cmkit_status cmkit_draw(cmkit_generator* generator, const cmkit_request* request, std::uint8_t* bytes,
                        std::size_t capacity) {
  return guarded([&] {
    cmkit::Engine& engine = given(generator, "generator")->engine;
    const cmkit::Run& run = run_of(engine.model(), given(request, "request")->run);
    if (capacity < bytes_of(run, run.channels))
      throw cmkit::Error(cmkit::ErrorKind::bad_input, "a picture has " + std::to_string(bytes_of(run, run.channels)) +
                                                          " bytes, there is room for " + std::to_string(capacity));
    const cmkit::Picture image = copied(request->image, run, run.channels), mask = copied(request->mask, run, 1);
    cmkit::Request wanted;
    wanted.seed = request->seed;
    wanted.label = request->label;
    wanted.prompt = request->prompt;
    wanted.guidance = request->guidance;
    if (request->text != nullptr) wanted.text = request->text;
    if (request->image != nullptr) wanted.image = &image;
    if (request->mask != nullptr) wanted.mask = &mask;
    const cmkit::Picture drawn =
        engine.draw(run.name, wanted, request->cancel == nullptr ? nullptr : &request->cancel->cancel);
    std::copy(drawn.bytes.begin(), drawn.bytes.end(), given(bytes, "bytes"));
  });
}

cmkit_status cmkit_self_test(cmkit_generator* generator, const char* golden_folder, cmkit_self_test_result* out) {
  return guarded([&] {
    *given(out, "out") = {};
    try {
      const cmkit::SelfTest found =
          given(generator, "generator")->engine.self_test(cmkit::path_of(given(golden_folder, "golden_folder")));
      *out = {found.worst_db, found.milliseconds, found.pictures};
    } catch (const cmkit::Error& error) {
      out->worst_db = error.decibels();
      throw;
    }
  });
}

cmkit_cancel* cmkit_cancel_new(void) { return new (std::nothrow) cmkit_cancel; }

void cmkit_cancel_request(cmkit_cancel* cancel) {
  if (cancel != nullptr) cancel->cancel.request();
}

void cmkit_cancel_free(cmkit_cancel* cancel) { delete cancel; }

void cmkit_noise(std::uint64_t seed, std::uint32_t stream, float* values, std::size_t count) {
  cmkit::noise(seed, stream, values, count);
}

const char* cmkit_last_error(void) { return last_error.c_str(); }
