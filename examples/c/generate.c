/* Draw images with an exported decoder or generator, without Python: N images beside each other in a PGM or PPM file.

       zoo export vae-mnist --format onnx
       cc -O2 generate.c -o generate -L LIBRARY_FOLDER -l:libonnxruntime.so.1 -lm
       ./generate vae-mnist.onnx 16 digits.pgm 0

   Real inputs, such as latents z, are standard normal numbers; labels go through the classes in turn, of which there are
   as many as the fifth argument says. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__has_include) && __has_include(<onnxruntime_c_api.h>)
#include <onnxruntime_c_api.h>
#else
#include "onnxruntime_table.h"
#endif

#define MOST_INPUTS 8
#define MOST_DIMENSIONS 8

static const OrtApi *api;

/* Say what the runtime says, and whether it failed. */
static int failed(OrtStatus *status) {
  if (status == NULL) return 0;
  fprintf(stderr, "generate: %s\n", api->GetErrorMessage(status));
  return 1;
}

/* SplitMix64 (G. Steele, D. Lea, C. Flood, Fast Splittable Pseudorandom Number Generators, 2014): a number in (0, 1). */
static double uniform(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return ((double)(z >> 11) + 0.5) / 9007199254740992.0;
}

/* A standard normal number (G. Box, M. Muller, 1958), the cosine of each pair. */
static float normal(uint64_t *state) {
  double radius = sqrt(-2.0 * log(uniform(state)));
  return (float)(radius * cos(6.283185307179586 * uniform(state)));
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Make the input number i of a session, for n examples. The caller owns *data and *name. */
static int fill(OrtSession *session, OrtAllocator *names, OrtMemoryInfo *memory, size_t i, int n, int classes,
                uint64_t *state, void **data, char **name, OrtValue **value) {
  OrtTypeInfo *type;
  const OrtTensorTypeAndShapeInfo *info;
  ONNXTensorElementDataType element;
  int64_t shape[MOST_DIMENSIONS];
  size_t dimensions, count = 1;
  if (failed(api->SessionGetInputName(session, i, names, name)) ||
      failed(api->SessionGetInputTypeInfo(session, i, &type)) ||
      failed(api->CastTypeInfoToTensorInfo(type, &info)) || failed(api->GetTensorElementType(info, &element)) ||
      failed(api->GetDimensionsCount(info, &dimensions)))
    return 1;
  if (dimensions < 1 || dimensions > MOST_DIMENSIONS || failed(api->GetDimensions(info, shape, dimensions))) return 1;
  shape[0] = n; /* the batch is dynamic */
  for (size_t d = 0; d < dimensions; d++) {
    if (shape[d] < 1) {
      fprintf(stderr, "generate: the input %s has a size that only a sampler knows; take a decoder\n", *name);
      return 1;
    }
    count *= (size_t)shape[d];
  }
  size_t bytes = count * (element == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? sizeof(int64_t) : sizeof(float));
  *data = malloc(bytes);
  if (*data == NULL) return 1;
  if (element == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 && strcmp(*name, "labels") == 0) {
    for (size_t k = 0; k < count; k++) ((int64_t *)*data)[k] = (int64_t)k % classes;
  } else if (element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    for (size_t k = 0; k < count; k++) ((float *)*data)[k] = normal(state);
  } else {
    fprintf(stderr, "generate: the input %s is neither real nor a label; take a decoder of latents\n", *name);
    return 1;
  }
  return failed(api->CreateTensorWithDataAsOrtValue(memory, *data, bytes, shape, dimensions, element, value));
}

/* Write images (n, C, H, W) in [0, 1] beside each other: PGM of one channel, PPM of three. */
static int write_images(const char *out, const float *x, const int64_t *shape) {
  int64_t n = shape[0], C = shape[1], H = shape[2], W = shape[3];
  FILE *file = fopen(out, "wb");
  if (file == NULL) {
    perror(out);
    return 1;
  }
  fprintf(file, "P%c\n%lld %lld\n255\n", C == 1 ? '5' : '6', (long long)(n * W), (long long)H);
  for (int64_t row = 0; row < H; row++)
    for (int64_t i = 0; i < n; i++)
      for (int64_t column = 0; column < W; column++)
        for (int64_t c = 0; c < C; c++) {
          float value = x[((i * C + c) * H + row) * W + column];
          value = value < 0 ? 0 : value > 1 ? 1 : value;
          fputc((int)lrintf(255 * value), file);
        }
  int wrong = ferror(file);
  return fclose(file) != 0 || wrong;
}

/* Draw n images with the model in path, and write them to out. Returns 0, or 1 after one line on stderr. */
int generate(const char *path, int n, const char *out, uint64_t seed, int classes) {
  OrtEnv *env;
  OrtSessionOptions *options;
  OrtSession *session;
  OrtAllocator *names;
  OrtMemoryInfo *memory;
  OrtTensorTypeAndShapeInfo *info;
  OrtValue *inputs[MOST_INPUTS] = {0}, *drawn = NULL;
  void *data[MOST_INPUTS] = {0};
  char *input_names[MOST_INPUTS], *output_name;
  size_t count, dimensions;
  int64_t shape[MOST_DIMENSIONS];
  float *x;
  double start = seconds();
  if (failed(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "generate", &env)) ||
      failed(api->CreateSessionOptions(&options)) || failed(api->SetIntraOpNumThreads(options, 1)) ||
      failed(api->CreateSession(env, path, options, &session)) ||
      failed(api->GetAllocatorWithDefaultOptions(&names)) ||
      failed(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory)) ||
      failed(api->SessionGetInputCount(session, &count)) ||
      failed(api->SessionGetOutputName(session, 0, names, &output_name)))
    return 1;
  if (count > MOST_INPUTS) {
    fprintf(stderr, "generate: %s has %zu inputs, at most %d are taken\n", path, count, MOST_INPUTS);
    return 1;
  }
  for (size_t i = 0; i < count; i++)
    if (fill(session, names, memory, i, n, classes, &seed, &data[i], &input_names[i], &inputs[i])) return 1;
  double ready = seconds();
  if (failed(api->Run(session, NULL, (const char *const *)input_names, (const OrtValue *const *)inputs, count,
                      (const char *const *)&output_name, 1, &drawn)))
    return 1;
  double first = seconds();
  OrtValue *again = NULL; /* the second call shows what a call costs once memory is there */
  if (failed(api->Run(session, NULL, (const char *const *)input_names, (const OrtValue *const *)inputs, count,
                      (const char *const *)&output_name, 1, &again)))
    return 1;
  double second = seconds();
  if (failed(api->GetTensorTypeAndShape(drawn, &info)) || failed(api->GetDimensionsCount(info, &dimensions))) return 1;
  if (dimensions != 4 || failed(api->GetDimensions(info, shape, dimensions)) || (shape[1] != 1 && shape[1] != 3)) {
    fprintf(stderr, "generate: %s draws no images of one or three channels\n", path);
    return 1;
  }
  if (failed(api->GetTensorMutableData(drawn, (void **)&x)) || write_images(out, x, shape)) return 1;
  printf("%s: %d images; loading %.2f ms, first call %.2f ms, second call %.2f ms\n", out, n, 1e3 * (ready - start),
         1e3 * (first - ready), 1e3 * (second - first));
  for (size_t i = 0; i < count; i++) free(data[i]);
  return 0; /* the process ends here, and the runtime's memory with it */
}

int main(int arguments, char **words) {
  if (arguments < 4 || arguments > 6 || atoi(words[2]) < 1) {
    fprintf(stderr, "usage: generate MODEL.onnx N OUT.pgm [SEED [CLASSES]]\n");
    return 2;
  }
  api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == NULL) {
    fprintf(stderr, "generate: this ONNX Runtime knows no version %d of its interface\n", ORT_API_VERSION);
    return 1;
  }
  uint64_t seed = arguments > 4 ? strtoull(words[4], NULL, 10) : 0;
  int classes = arguments > 5 ? atoi(words[5]) : 10;
  return generate(words[1], atoi(words[2]), words[3], seed, classes < 1 ? 1 : classes);
}
