/* What generate.c needs of ONNX Runtime's C API, for machines that have the shared library alone, such as those where its
   Python wheel is installed. The library hands out one table of functions whose order is fixed: entries are only ever added
   at its end, so those of the first version stay where they are. With the header of a release at hand, onnxruntime_c_api.h,
   this file is not needed. */

#ifndef ONNXRUNTIME_TABLE_H
#define ONNXRUNTIME_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 1

typedef struct OrtEnv OrtEnv;
typedef struct OrtStatus OrtStatus;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtValue OrtValue;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtAllocator OrtAllocator;

typedef enum { ORT_LOGGING_LEVEL_ERROR = 3 } OrtLoggingLevel;
typedef enum { OrtArenaAllocator = 1 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;
typedef enum { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7 } ONNXTensorElementDataType;

typedef struct OrtApi {
  void *entries_0_to_1[2];
  const char *(*GetErrorMessage)(const OrtStatus *);
  OrtStatus *(*CreateEnv)(OrtLoggingLevel, const char *name, OrtEnv **);
  void *entries_4_to_6[3];
  OrtStatus *(*CreateSession)(const OrtEnv *, const char *path, const OrtSessionOptions *, OrtSession **);
  void *entry_8;
  OrtStatus *(*Run)(OrtSession *, const OrtRunOptions *, const char *const *input_names, const OrtValue *const *inputs,
                    size_t inputs_count, const char *const *output_names, size_t outputs_count, OrtValue **outputs);
  OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **);
  void *entries_11_to_23[13];
  OrtStatus *(*SetIntraOpNumThreads)(OrtSessionOptions *, int);
  void *entries_25_to_29[5];
  OrtStatus *(*SessionGetInputCount)(const OrtSession *, size_t *);
  void *entries_31_to_32[2];
  OrtStatus *(*SessionGetInputTypeInfo)(const OrtSession *, size_t, OrtTypeInfo **);
  void *entries_34_to_35[2];
  OrtStatus *(*SessionGetInputName)(const OrtSession *, size_t, OrtAllocator *, char **);
  OrtStatus *(*SessionGetOutputName)(const OrtSession *, size_t, OrtAllocator *, char **);
  void *entries_38_to_48[11];
  OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *data, size_t bytes, const int64_t *shape,
                                               size_t dimensions, ONNXTensorElementDataType, OrtValue **);
  void *entry_50;
  OrtStatus *(*GetTensorMutableData)(OrtValue *, void **);
  void *entries_52_to_54[3];
  OrtStatus *(*CastTypeInfoToTensorInfo)(const OrtTypeInfo *, const OrtTensorTypeAndShapeInfo **);
  void *entries_56_to_59[4];
  OrtStatus *(*GetTensorElementType)(const OrtTensorTypeAndShapeInfo *, ONNXTensorElementDataType *);
  OrtStatus *(*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo *, size_t *);
  OrtStatus *(*GetDimensions)(const OrtTensorTypeAndShapeInfo *, int64_t *, size_t);
  void *entries_63_to_64[2];
  OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *, OrtTensorTypeAndShapeInfo **);
  void *entries_66_to_68[3];
  OrtStatus *(*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo **);
  void *entries_70_to_77[8];
  OrtStatus *(*GetAllocatorWithDefaultOptions)(OrtAllocator **);
} OrtApi;

typedef struct OrtApiBase {
  const OrtApi *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)(void);
} OrtApiBase;

const OrtApiBase *OrtGetApiBase(void);

#endif
