/* The C API of every kit: for Flutter (dart:ffi), Unity (P/Invoke), JNI and all else that can call C.
 *
 * Strings are UTF-8. No function throws or exits; those that can fail return a cmkit_status, and cmkit_last_error has
 * the sentence. A generator may draw in several threads at once. */
#ifndef CMKIT_H
#define CMKIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t cmkit_status;
enum {
  CMKIT_OK = 0,
  CMKIT_MODEL_MISSING = 1,
  CMKIT_MODEL_DAMAGED = 2,
  CMKIT_RUNTIME = 3,
  CMKIT_BAD_INPUT = 4,
  CMKIT_CANCELLED = 5,
  CMKIT_SELF_TEST_FAILED = 6
};

typedef struct cmkit_model cmkit_model; /* what is known of a model: NAME_model() of the kit's own header */
typedef struct cmkit_generator cmkit_generator;
typedef struct cmkit_cancel cmkit_cancel;

/* What a picture is drawn from. Fields that the run does not take are left alone. */
typedef struct {
  const char* run; /* "generate", "inpaint", ... ; NULL: the model's first */
  uint64_t seed;
  int64_t label;        /* index */
  int64_t prompt;       /* index in the closed list */
  const char* text;     /* of a model that takes words */
  const uint8_t* image; /* height * width * channels bytes, of the model's size */
  const uint8_t* mask;  /* height * width bytes, 128 and more is kept */
  cmkit_cancel* cancel; /* or NULL */
  float guidance;
} cmkit_request;

typedef struct {
  double worst_db;     /* infinite where every picture is equal */
  double milliseconds; /* of one picture, the median */
  int32_t pictures;
} cmkit_self_test_result;

/* Open the model in a folder. threads: 0 leaves it to ONNX Runtime. hash: compare every file's SHA-256. */
cmkit_status cmkit_open(const cmkit_model* model, const char* folder, int32_t threads, int32_t hash,
                        cmkit_generator** out);
void cmkit_close(cmkit_generator* generator);

/* The size of a run's pictures. */
cmkit_status cmkit_size(const cmkit_generator* generator, const char* run, int32_t* width, int32_t* height,
                        int32_t* channels);
/* How many labels there are, and their names; NULL beyond them. */
int64_t cmkit_label_count(const cmkit_model* model);
const char* cmkit_label(const cmkit_model* model, int64_t index);
int64_t cmkit_prompt_count(const cmkit_model* model);
const char* cmkit_prompt(const cmkit_model* model, int64_t index);

/* Draw a picture into height * width * channels bytes, row by row from the top left. */
cmkit_status cmkit_draw(cmkit_generator* generator, const cmkit_request* request, uint8_t* bytes, size_t capacity);
/* Draw the golden pictures and compare; out is filled where they pass, and worst_db where they don't. */
cmkit_status cmkit_self_test(cmkit_generator* generator, const char* golden_folder, cmkit_self_test_result* out);

/* Stop drawings from any thread; free it when they have returned. */
cmkit_cancel* cmkit_cancel_new(void);
void cmkit_cancel_request(cmkit_cancel* cancel);
void cmkit_cancel_free(cmkit_cancel* cancel);

/* The noise cmx1 of a seed. */
void cmkit_noise(uint64_t seed, uint32_t stream, float* values, size_t count);

/* What was wrong with this thread's last call; empty if nothing was. Valid until its next call. */
const char* cmkit_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
