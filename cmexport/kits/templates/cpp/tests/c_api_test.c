/* The C API, from C. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include KIT_C_HEADER

static int failures = 0;

static void check(int holds, const char* what, int line) {
  if (holds) return;
  fprintf(stderr, "line %d: %s (%s)\n", line, what, cmkit_last_error());
  ++failures;
}
#define CHECK(holds) check((holds) != 0, #holds, __LINE__)

int main(void) {
  cmkit_generator* generator = NULL;
  CHECK(cmkit_open(KIT_MODEL(), KIT_FOLDER "/nowhere", 1, 1, &generator) == CMKIT_MODEL_MISSING);
  CHECK(generator == NULL && strlen(cmkit_last_error()) > 0);
  CHECK(cmkit_open(KIT_MODEL(), NULL, 1, 1, &generator) == CMKIT_BAD_INPUT);
  CHECK(cmkit_open(KIT_MODEL(), KIT_FOLDER "/model", 1, 1, &generator) == CMKIT_OK);
  if (generator == NULL) return 1;

  int32_t width = 0, height = 0, channels = 0;
  CHECK(cmkit_size(generator, NULL, &width, &height, &channels) == CMKIT_OK);
  CHECK(cmkit_size(generator, "no such run", &width, &height, &channels) == CMKIT_BAD_INPUT);
  CHECK(cmkit_label(KIT_MODEL(), cmkit_label_count(KIT_MODEL())) == NULL);
  CHECK(cmkit_label_count(KIT_MODEL()) == 0 || cmkit_label(KIT_MODEL(), 0) != NULL);
  CHECK(cmkit_prompt(KIT_MODEL(), -1) == NULL);
  CHECK(cmkit_prompt_count(KIT_MODEL()) == 0 || cmkit_prompt(KIT_MODEL(), 0) != NULL);

  cmkit_self_test_result found;
  CHECK(cmkit_self_test(generator, KIT_FOLDER "/golden", &found) == CMKIT_OK);
  CHECK(found.pictures >= 4 && found.worst_db > 20);

  const size_t bytes = (size_t)width * (size_t)height * (size_t)channels;
  uint8_t *picture = malloc(bytes), *image = calloc(bytes, 1);
  if (picture == NULL || image == NULL) return 1;
  cmkit_request request = {0};
  request.seed = 7;
  request.text = "crying cat";
  request.guidance = 5;
  request.image = image;
  request.mask = image; /* keeps nothing */
  CHECK(cmkit_draw(generator, &request, picture, bytes) == CMKIT_OK);
  CHECK(cmkit_draw(generator, &request, picture, bytes - 1) == CMKIT_BAD_INPUT);
  cmkit_cancel* cancel = cmkit_cancel_new();
  request.cancel = cancel;
  CHECK(cmkit_draw(generator, &request, picture, bytes) == CMKIT_OK);
  cmkit_cancel_request(cancel);
  CHECK(cmkit_draw(generator, &request, picture, bytes) == CMKIT_CANCELLED);
  request.cancel = NULL;
  CHECK(cmkit_draw(generator, &request, picture, bytes) == CMKIT_OK && strlen(cmkit_last_error()) == 0);
  cmkit_cancel_free(cancel);

  float value = 0;
  cmkit_noise(0, 0, &value, 1);
  CHECK(value < -0.25f && value > -0.26f); /* be82fa50 */

  free(picture);
  free(image);
  cmkit_close(generator);
  cmkit_close(NULL);
  return failures == 0 ? 0 : 1;
}
