export { type AttentionOptions, type AttentionResult, attention, merge, type Part } from './attention';
export {
  alibi,
  type Bias,
  type BiasExplanation,
  type DenseBiasOptions,
  type DistanceOptions,
  denseBias,
  distanceBias,
  keyBias,
  type LowRankOptions,
  lowRankBias,
  type RelativePositionOptions,
  relativePositionBias,
} from './biases';
export { type BucketOptions, bucketBias } from './buckets';
export { KvCache, type KvCacheOptions, type LoadOptions, type ResidentOptions, type RopeOptions } from './cache';
export { type DeviceInfo, type DeviceReason, devices, type MemoryStats, memoryStats } from './devices';
export {
  type DType,
  type DTypeMap,
  type DTypeOf,
  type Float16Elements,
  fromBfloat16,
  fromFloat16,
  type TypedArray,
  toBfloat16,
  toFloat16,
} from './dtype';
export { AttentionError, type ErrorCode } from './errors';
export { type Factorization, type FactorizeOptions, factorizeBias } from './factorize';
export { type BiasFunction, type FitOptions, type FittedBias, fitBias } from './fit';
export type { FitProgress } from './fit-worker';
export {
  KvIndex,
  type KvIndexMethod,
  type KvIndexOptions,
  type RetrievalOptions,
  type RetrievalResult,
  type SearchOptions,
  type SearchResult,
} from './kv_index';
export { causal, type Mask, type NeighborhoodOptions, neighborhood, type PerAxis, window } from './masks';
export { type SphereOptions, sphereBias } from './quadrature';
export { type PermuteOptions, permuteTokens, type RestoreOptions, restoreTokens } from './reorder';
export {
  type DilatedOptions,
  dilatedPlan,
  type GridOptions,
  gridPlan,
  type RadialOptions,
  type RuleAlways,
  radialPlan,
  type StreamingOptions,
  streamingPlan,
  type VerticalSlashOptions,
  verticalSlashPlan,
} from './rules';
export {
  type HipOptions,
  HipState,
  hipPlan,
  type PageOptions,
  type PooledOptions,
  pagePlan,
  pooledPlan,
  type SelectorOptions,
} from './selectors';
export { type Simulation, type SimulationOptions, simulateNeighborhood } from './simulate';
export {
  type BlockOptions,
  type PlanGeometry,
  type PlanLists,
  type PlanOptions,
  type PlanStatistics,
  SparsePlan,
} from './sparse_plan';
export { Event, Graph, Stream } from './stream';
export { type Device, Tensor, type ToOptions } from './tensor';
