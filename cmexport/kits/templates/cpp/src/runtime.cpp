#include "runtime.hpp"

#include "cmkit/error.hpp"

namespace cmkit {
namespace {

// Of a struct of functions that only grows, those that 1.16 had: phones ship older libraries than these headers.
constexpr std::uint32_t kOldestApi = 16;

template <class T, class Function, class... Arguments>
Handle<T> made(Function function, Arguments... arguments) {
  T* raw = nullptr;
  check(function(arguments..., &raw));
  return Handle<T>(raw);
}

ONNXTensorElementDataType type_of(Element element) {
  switch (element) {
    case Element::float32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case Element::int64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case Element::uint8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  }
  throw Error(ErrorKind::bad_input, "a tensor of an unknown type");
}

Handle<OrtMemoryInfo> cpu() {
  return made<OrtMemoryInfo>(ort().CreateCpuMemoryInfo, OrtArenaAllocator, OrtMemTypeDefault);
}

}  // namespace

const OrtApi& ort() {
  static const OrtApi* const api = OrtGetApiBase()->GetApi(kOldestApi);
  if (api == nullptr)
    throw Error(ErrorKind::runtime, std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() +
                                        " is too old; this kit needs 1.16 or newer");
  return *api;
}

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = ort().GetErrorMessage(status);
  ort().ReleaseStatus(status);
  throw Error(ErrorKind::runtime, message);
}

Handle<OrtEnv> open_env() { return made<OrtEnv>(ort().CreateEnv, ORT_LOGGING_LEVEL_FATAL, "cmkit"); }

Handle<OrtSession> open_session(OrtEnv* env, const std::filesystem::path& file, const Options& options) {
  const auto settings = made<OrtSessionOptions>(ort().CreateSessionOptions);
  check(ort().SetIntraOpNumThreads(settings.get(), options.threads));
  check(ort().SetSessionGraphOptimizationLevel(settings.get(), ORT_ENABLE_ALL));
  for (const std::string& provider : options.providers)
    check(ort().SessionOptionsAppendExecutionProvider(settings.get(), provider.c_str(), nullptr, nullptr, 0));
  return made<OrtSession>(ort().CreateSession, env, file.c_str(), settings.get());
}

Handle<OrtValue> tensor_over(void* data, std::size_t bytes, const std::vector<std::int64_t>& shape, Element element) {
  const auto memory = cpu();
  return made<OrtValue>(ort().CreateTensorWithDataAsOrtValue, memory.get(), data, bytes, shape.data(), shape.size(),
                        type_of(element));
}

const void* values_of(const OrtValue* value, const Tensor& wanted) {
  const auto info = made<OrtTensorTypeAndShapeInfo>(ort().GetTensorTypeAndShape, value);
  ONNXTensorElementDataType type{};
  check(ort().GetTensorElementType(info.get(), &type));
  std::size_t axes = 0;
  check(ort().GetDimensionsCount(info.get(), &axes));
  std::vector<std::int64_t> shape(axes);
  check(ort().GetDimensions(info.get(), shape.data(), axes));
  if (type != type_of(wanted.element) || shape != wanted.shape)
    throw Error(ErrorKind::runtime, "the model's output " + wanted.name + " has another shape or type than its kit");
  // Read only; the C API's function for readers is newer than 1.16.
  void* data = nullptr;
  check(ort().GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

Handle<OrtValue> run(OrtSession* session, const std::vector<const char*>& names,
                     const std::vector<const OrtValue*>& inputs, const std::string& output, Cancel* cancel) {
  const auto options = made<OrtRunOptions>(ort().CreateRunOptions);
  const char* const wanted = output.c_str();
  OrtValue* raw = nullptr;
  OrtStatus* status = nullptr;
  {
    const Cancel::Watch watch(cancel, [&] { check(ort().RunOptionsSetTerminate(options.get())); });
    status = ort().Run(session, options.get(), names.data(), inputs.data(), names.size(), &wanted, 1, &raw);
  }
  Handle<OrtValue> value(raw);
  if (cancel != nullptr && cancel->requested()) {
    ort().ReleaseStatus(status);
    throw Error(ErrorKind::cancelled, "the drawing was cancelled");
  }
  check(status);
  return value;
}

}  // namespace cmkit
