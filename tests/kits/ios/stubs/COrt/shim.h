#include <onnxruntime/onnxruntime_c_api.h>

// The interface is reached by pointers in a struct, whose getter Swift can't call through OrtGetApiBase()->.
static inline const OrtApi *ort_api(void) { return OrtGetApiBase()->GetApi(ORT_API_VERSION); }
