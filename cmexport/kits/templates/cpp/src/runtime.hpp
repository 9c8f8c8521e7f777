#pragma once

#include <onnxruntime_c_api.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cmkit/cancel.hpp"
#include "cmkit/engine.hpp"

/// As much of ONNX Runtime's C API as a kit needs.
namespace cmkit {

/// The functions of the library; throws if it is older than 1.16.
const OrtApi& ort();

/// Throws what a function of ONNX Runtime complains of.
void check(OrtStatus* status);

struct Release {
  void operator()(OrtEnv* it) const { ort().ReleaseEnv(it); }
  void operator()(OrtSession* it) const { ort().ReleaseSession(it); }
  void operator()(OrtSessionOptions* it) const { ort().ReleaseSessionOptions(it); }
  void operator()(OrtRunOptions* it) const { ort().ReleaseRunOptions(it); }
  void operator()(OrtMemoryInfo* it) const { ort().ReleaseMemoryInfo(it); }
  void operator()(OrtValue* it) const { ort().ReleaseValue(it); }
  void operator()(OrtTensorTypeAndShapeInfo* it) const { ort().ReleaseTensorTypeAndShapeInfo(it); }
};

template <class T>
using Handle = std::unique_ptr<T, Release>;

Handle<OrtEnv> open_env();

Handle<OrtSession> open_session(OrtEnv* env, const std::filesystem::path& file, const Options& options);

/// A tensor over memory that must outlive it.
Handle<OrtValue> tensor_over(void* data, std::size_t bytes, const std::vector<std::int64_t>& shape, Element element);

/// The values of a tensor that must have this shape and type.
const void* values_of(const OrtValue* value, const Tensor& wanted);

/// Runs a session for one output; throws cancelled if it was told to stop.
Handle<OrtValue> run(OrtSession* session, const std::vector<const char*>& names,
                     const std::vector<const OrtValue*>& inputs, const std::string& output, Cancel* cancel);

}  // namespace cmkit
