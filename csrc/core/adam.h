// Factors of an Adam step, formed as torch.optim.Adam does: in double, rounded once.
#pragma once

#include <cmath>

#include "../../kernels/common/arguments.h"

namespace ms {

inline AdamFactors adam_factors(const AdamStep& a) {
  const double root2 = std::sqrt(1 - std::pow(a.beta2, double(a.step)));
  AdamFactors f;
  f.add1 = float(1 - a.beta1);
  f.keep2 = float(a.beta2);
  f.add2 = float(1 - a.beta2);
  f.inverse_root2 = float(1 / root2);
  f.step_size = float(a.lr / (1 - std::pow(a.beta1, double(a.step))));
  f.eps = float(a.eps);
  f.step = uint32_t(a.step);
  f.root2 = float(root2);
  return f;
}

}  // namespace ms
