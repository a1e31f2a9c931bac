// The nearest of some centroids to each of some keys, by the angle. Included once by each instruction set.
#pragma once

#include "cpu/executor/problem.h"
#include "cpu/executor/vector.h"

namespace na::cpu {
namespace {

// Keys whose products with 16 centroids are in registers at once.
constexpr int kKeysAtOnce = kWidth / 2;

NA_INLINE void assign_block(const Assign& assign, int first) {
  constexpr int kVectors = kStrip / kWidth;
  float best[kKeysAtOnce][kStrip];
  int32_t label[kKeysAtOnce][kStrip];
  const float* key[kKeysAtOnce];
  for (int i = 0; i < kKeysAtOnce; i++) {
    const int at = first + i < assign.key_count ? first + i : assign.key_count - 1;
    key[i] = assign.keys + static_cast<int64_t>(at) * assign.columns;
    for (int lane = 0; lane < kStrip; lane++) {
      best[i][lane] = -kInfinity;
      label[i][lane] = lane;
    }
  }
  for (int strip = 0; strip < assign.centroid_count; strip += kStrip) {
    const float* column = assign.centroids + static_cast<int64_t>(strip) * assign.columns;
    Vector sum[kKeysAtOnce][kVectors] = {};
    for (int d = 0; d < assign.columns; d++, column += kStrip) {
      Vector element[kVectors];
      for (int part = 0; part < kVectors; part++) element[part] = load(column + part * kWidth);
      for (int i = 0; i < kKeysAtOnce; i++) {
        const Vector x = broadcast(key[i][d]);
        for (int part = 0; part < kVectors; part++) sum[i][part] = multiply_add(x, element[part], sum[i][part]);
      }
    }
    for (int i = 0; i < kKeysAtOnce; i++) {
      float score[kStrip];
      for (int part = 0; part < kVectors; part++) store(score + part * kWidth, sum[i][part]);
      for (int lane = 0; lane < kStrip; lane++) {
        const bool better = score[lane] > best[i][lane];
        best[i][lane] = better ? score[lane] : best[i][lane];
        label[i][lane] = better ? strip + lane : label[i][lane];
      }
    }
  }
  for (int i = 0; i < kKeysAtOnce && first + i < assign.key_count; i++) {
    int chosen = 0;
    for (int lane = 1; lane < kStrip; lane++) {
      const bool lower = label[i][lane] < label[i][chosen];
      if (best[i][lane] > best[i][chosen] || (best[i][lane] == best[i][chosen] && lower)) chosen = lane;
    }
    assign.labels[first + i] = label[i][chosen];
  }
}

void assign_keys(const Assign& assign) {
  for (int first = 0; first < assign.key_count; first += kKeysAtOnce) assign_block(assign, first);
}

}  // namespace
}  // namespace na::cpu
