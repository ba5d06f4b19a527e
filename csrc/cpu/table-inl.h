// The table of the kernels of one instruction set, filled by name.
#pragma once

#include "decode_loss-inl.h"
#include "int_encode-inl.h"
#include "int_gemm-inl.h"
#include "kernels.h"
#include "lists-inl.h"
#include "quantize-inl.h"
#include "resample-inl.h"
#include "row_adam-inl.h"
#include "row_grad-inl.h"
#include "sparse_decode-inl.h"
#include "target.h"
#include "threshold_encode-inl.h"
#include "topk_encode-inl.h"

#define MS_TEXT_(x) #x
#define MS_TEXT(x) MS_TEXT_(x)

namespace ms {

const Kernels MS_TABLE = {
    .name = MS_TEXT(MS_ISA),
    .topk_filter = MS_ISA::topk_filter,
    .topk_finish = MS_ISA::topk_finish,
    .topk_rescore = MS_ISA::topk_rescore,
    .threshold_filter = MS_ISA::threshold_filter,
    .threshold_rescore = MS_ISA::threshold_rescore,
    .panels = MS_ISA::panels,
    .fast_int8 = MS_ISA::kFastInt8,
    .quantize = MS_ISA::quantize,
    .int_gemm_repeat = MS_ISA::int_gemm_repeat,
    .sparse_below = MS_ISA::sparse_below,
    .usual_values = MS_ISA::usual_values,
    .largest_norms = MS_ISA::largest_norms,
    .int_topk = MS_ISA::int_topk,
    .int_threshold = MS_ISA::int_threshold,
    .sparse_decode = MS_ISA::sparse_decode,
    .gather_dot = MS_ISA::gather_dot,
    .decode_loss = MS_ISA::decode_loss,
    .row_grad = MS_ISA::row_grad,
    .feature_sum = MS_ISA::feature_sum,
    .row_adam = MS_ISA::row_adam,
    .row_grad_adam = MS_ISA::row_grad_adam,
    .resample = MS_ISA::resample,
};

}  // namespace ms
