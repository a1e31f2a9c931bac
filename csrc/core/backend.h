/*
 * The table of functions by which a backend offers its devices to the addon.
 *
 * Plain C, so that a backend may be a shared library built by another compiler. A backend library exports
 * node_attention_backend(); it returns NULL when it does not speak the version it is asked for, and the
 * caller refuses a table whose `abi` or `size` is not its own. Asked for version 0, every library of every version
 * returns its table, of which only the members up to `build` may be read: they say what the library is.
 *
 * Threads: every function here is called from JavaScript threads, several at once when there are workers,
 * and none may wait for queued work. submit is also called from threads that call `done`, of this backend and of
 * others, when an operation had to wait for one of theirs. `done` is called by the backend, from any thread, submit's
 * included; within it memory is freed and graphs are destroyed, but never a stream. No stream is destroyed inside its
 * submit.
 */
#ifndef NODE_ATTENTION_CORE_BACKEND_H_
#define NODE_ATTENTION_CORE_BACKEND_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NA_BACKEND_ABI 3
#define NA_MAX_RANK 8
#define NA_MAX_AXES 3 /* token axes */

typedef enum na_code {
  NA_OK = 0,
  NA_ERR_SHAPE,
  NA_ERR_DTYPE,
  NA_ERR_DEVICE,
  NA_ERR_OPTION,
  NA_ERR_DISPOSED,
  NA_ERR_PENDING,
  NA_ERR_OUT_OF_MEMORY,
  NA_ERR_BACKEND,
  NA_ERR_CUDA
} na_code;

typedef struct na_error {
  int32_t code; /* na_code */
  char message[508];
} na_error;

typedef enum na_dtype { NA_FLOAT32, NA_FLOAT16, NA_BFLOAT16, NA_INT32, NA_UINT8, NA_INT64 } na_dtype;

/* A strided view. Strides count elements and may be zero (broadcast); an axis of length 0 is legal. */
typedef struct na_tensor {
  void* data; /* the first element of the view, on the device of the call */
  int32_t dtype;
  int32_t rank;
  int64_t shape[NA_MAX_RANK];
  int64_t stride[NA_MAX_RANK];
} na_tensor;

/* Generalized neighborhood attention, Hassani et al. 2025: one setting per token axis. */
typedef struct na_neighborhood {
  int64_t window[NA_MAX_AXES]; /* resolved: -1 has become the extent of the axis, floor-divided by dilation */
  int64_t stride[NA_MAX_AXES];
  int64_t dilation[NA_MAX_AXES];
  uint8_t causal[NA_MAX_AXES];
  uint8_t wrap[NA_MAX_AXES];
} na_neighborhood;

/* What an entry of a sparse plan says of the keys of its block. */
typedef enum na_entry_kind {
  NA_ENTRY_FULL,      /* every query of the row sees all of them */
  NA_ENTRY_PREDICATE, /* the causal border crosses the block */
  NA_ENTRY_BITMAP,    /* the next word is the index of a bitmap */
  NA_ENTRY_TAIL       /* the keys end within the block, and every query sees those that there are */
} na_entry_kind;

/*
 * Which blocks of keys each tile of queries sees: rows (batch entry, pattern head, query tile) of 32-bit entries
 * `block:24 | level:3 | kind:2 | spare:3`, the block in the lowest bits. Of a row the full entries come first, then the
 * others, then those with a level, each run in ascending order. All tensors are int32 and contiguous. Their values are
 * unchecked: whoever reads them clamps them. A sequence of a cache that has fewer keys than the plan sees what is
 * listed of those that it has, up to its own causal border, whatever the kinds of entries say.
 *
 * With a level the keys of a block count by means: 2^level of them that follow each other, or fewer where the keys end,
 * as so many times their mean, with the mean of their values. Such an entry counts only where all queries of its row
 * may see the whole block, as whose kind is full or tail; elsewhere it is passed over.
 */
#define NA_LEVELS 8 /* 0 are the keys themselves */
#define NA_NO_WORD 0xfffffffdu

typedef struct na_plan {
  const na_tensor* offsets; /* [rows + 1]: where the entries of each row begin, and the end of the last. NULL: each row
                               has row_words words, and behind its last entry NA_NO_WORD stands in all of them */
  const na_tensor* entries; /* as many words as the plan may have at most */
  const na_tensor* bitmaps; /* [count, key_block, query_tile / 32, rounded up], a bit for each query; NULL: none */
  int64_t batch, heads;     /* of patterns: batch is 1 or that of the call, heads divides that of the call */
  int64_t queries, keys;
  int32_t query_tile, key_block; /* powers of two: 16 ... 128 and 2 ... 128 */
  int32_t causal;                /* queries see no key behind their position, aligned bottom-right as for windows */
  int32_t estimate; /* a block all of whose keys all queries of a row may see counts for those that see none of them, as
                       the row does not list it or its bitmap says, as so many times the mean of its keys, with the
                       mean of their values */
  int32_t levels;   /* bits of the levels that entries may have beside 0; 2^level is at most half of key_block. Entries
                       of other levels are passed over */
  int64_t row_words;
} na_plan;

typedef enum na_mask_kind { NA_MASK_WINDOW, NA_MASK_NEIGHBORHOOD, NA_MASK_PLAN } na_mask_kind;

typedef struct na_mask {
  int32_t kind;
  /* NA_MASK_WINDOW: the query at position p sees keys p - left ... p + right; -1 is unlimited.
     causal is left = -1, right = 0. Positions are aligned bottom-right: query i stands at i + Lk - Lq. */
  int64_t left, right;
  /* NA_MASK_NEIGHBORHOOD: settings[0] for every head, or settings[h] for query head h. */
  int32_t settings_count;
  const na_neighborhood* settings;
  /* NA_MASK_PLAN: at most one of the masks of a call. */
  const na_plan* plan;
} na_mask;

/*
 * What is added to the scaled, capped score of a query and a key; all tensors are float32 and may have zero strides.
 * Closed forms are evaluated in float32. With cuSeqlens, batch is 1, and Lq and Lk count the packed tokens.
 */
typedef enum na_bias_kind {
  NA_BIAS_DENSE,    /* tensor [batch, heads, Lq, Lk]; with places [batch, any number, Lq, Lk]: head h has those at
                       places[h], and where that is -1 none */
  NA_BIAS_LOW_RANK, /* the product of query [batch, heads, Lq, R] and key [batch, heads, Lk, R]; last strides are 1 */
  NA_BIAS_ALIBI,    /* -slope * |position - j|, tensor the slopes [heads], or NULL for those of the paper; one token
                       axis. Positions are aligned bottom-right, as for windows, in each sequence. */
  NA_BIAS_DISTANCE, /* -weight * |x - y|^2, coordinates query [batch, Lq, n] and key [batch, Lk, n], tensor the weights
                       [batch, heads, Lq], or NULL for 1 */
  NA_BIAS_RELATIVE  /* tensor [heads, extents...], of one odd extent 2 r + 1 for each token axis: the entry at
                       r + floor(x / step) - floor(y / step) on each, or the nearest that there is, x and y being the
                       coordinates of query and key. On one axis x is the position as for windows; on several q and k
                       have the same. */
} na_bias_kind;

#define NA_MAX_COORDINATES 4 /* n of NA_BIAS_DISTANCE */

/* What multiplies the factors of NA_BIAS_LOW_RANK. A backend that has no such units, or not for this call, refuses. */
typedef enum na_low_rank_path {
  NA_LOW_RANK_AUTO,
  NA_LOW_RANK_MATRIX, /* the units that multiply matrices, as they do q and k */
  NA_LOW_RANK_VECTOR  /* vector instructions, in float32 */
} na_low_rank_path;

typedef struct na_bias {
  int32_t kind;
  const na_tensor* tensor;
  const na_tensor *query, *key;
  int64_t step[NA_MAX_AXES];
  int32_t path;          /* na_low_rank_path */
  const int32_t* places; /* in memory of the host */
} na_bias;

/*
 * Keys and values of a batch in pages of memory. tables[b] lists the pages of batch entry b, and token t of it lies in
 * page t / page_tokens. A page holds keys of its tokens, [page_tokens, kvHeads, headDim] side by side, and value_offset
 * bytes from its beginning their values likewise. What lies beyond lengths[b] is not to be read. With int8 the row of a
 * token and head is its elements, as int8, and NA_UNIT_BYTES of a float32, at any address: the unit that they count.
 */
#define NA_UNIT_BYTES 4

typedef struct na_pages {
  int64_t page_tokens, value_offset;
  int32_t int8;
  void* const* const* tables;
  const int64_t* lengths;
  const na_tensor* device_tables; /* int64 [batch, room + 1]: of each batch entry its length and then its table, where
                                     kernels of a device read them; when tokens are appended, the length behind them.
                                     NULL: kernels read memory of the host */
} na_pages;

/*
 * What stands for the keys, or the values, of each block of those that follow each other: rows [kvHeads, features], in
 * one type. Of batch entry b, tables[b] lists segments[b] segments, each with the rows of segment_blocks blocks, the
 * first ones; `rest` has those of the blocks behind them.
 */
typedef struct na_summaries {
  int64_t segment_blocks;
  void* const* const* tables;
  const int64_t* segments;        /* NULL: there are none */
  const na_tensor* device_tables; /* as those of na_pages, with the number of segments in place of the length */
  const na_tensor* rest;          /* [batch, blocks, kvHeads, features], contiguous */
} na_summaries;

/*
 * out = softmax(mask(softcap(scale * q k^T) + biases)) v, lse = log of the sum of exponentials.
 * q [batch, tokens..., heads, headDim], k [batch, tokens..., kvHeads, headDim], v likewise with its own
 * last axis; out [batch, tokens..., heads, vHeadDim] in the dtype of q; lse float32 [batch, tokens..., heads].
 * The last axis of q, k, v and out has stride 1 (or length <= 1). Optional tensors are NULL when absent.
 */
typedef struct na_attention {
  const na_tensor *q, *k, *v, *out, *lse;
  const na_pages* pages; /* where k and v are, which then have no data, the strides of a page, and the longest length */
  const na_tensor* touched; /* with pages and a plan, on a device that is not the host: uint8 [batch of the plan, n],
                               contiguous, of which those of the first n pages become 1 that have keys of a listed
                               block; the others stay. NULL: nobody asks */
  const na_tensor* sinks;   /* float32 [heads] */
  const na_tensor *extra_k, *extra_v; /* [batch, n, kvHeads, headDim]: seen by every query */
  const na_tensor *cu_q, *cu_k;       /* int32 [sequences + 1], batch 1, one token axis; values unchecked */
  const na_summaries *pooled_k[NA_LEVELS], *pooled_v[NA_LEVELS]; /* means of 2^level keys and values, in the dtype of k:
                                              of a plan's levels and, where it estimates, of its blocks. Such a plan is
                                              the only mask, and there is neither bias nor softcap. NULL: not needed */
  const na_mask* masks;                                          /* intersected */
  const na_bias* biases;                                         /* added */
  int32_t mask_count, bias_count;
  float scale;
  float softcap;   /* 0: none */
  int32_t tf32;    /* float32 inputs may be multiplied as tf32 (CUDA) */
  void* workspace; /* of as many bytes as operation_check asked for */
} na_attention;

/* Exact union of attention results over disjoint sets of keys. */
typedef struct na_merge {
  int32_t count;
  const na_tensor* const* outs; /* each of the shape of out */
  const na_tensor* const* lses; /* each of the shape of lse */
  const na_tensor *out, *lse;
  void* workspace;
} na_merge;

/* The first counts[b] tokens of k and v, of the dtype of the pages, become the tokens from lengths[b] on of batch
   entry b, after `copies` were made one by one. k is [batch, n, kvHeads, headDim], v likewise, last axes of stride 1.
   For int8 the unit of a row is its largest magnitude / 127 and elements are rounded to nearest even; a row with an
   element that is not finite gets the unit NaN. */
typedef struct na_page_copy {
  const void* from;
  void* to;
  int64_t bytes;
} na_page_copy;

typedef struct na_append {
  const na_tensor *k, *v;
  na_pages pages;
  const int64_t* counts;
  const na_page_copy* copies;
  int64_t copy_count;
} na_append;

/*
 * By which the keys that matter to a query are found in a cache: segments of segment_rows rows, a multiple of 16, each
 * of which stands for `block` keys that follow each other. tables[b] lists the segments of batch entry b, segments[b]
 * of them, which hold its first keys. core/mirror.h says what is where in a segment.
 */
typedef struct na_mirror {
  int64_t segment_rows;
  int32_t block;    /* 1: a row is a key */
  int32_t bounds;   /* a row is the largest element of each column, then the least, instead of the mean of the keys */
  int32_t clusters; /* the keys of a row are any of its segment, `block` of them on average, 256 rows at most */
  void* const* const* tables;
  const int64_t* segments;
} na_mirror;

/* Writes the segments from first[b] on of the keys of a cache. */
typedef struct na_reflect {
  const na_tensor* k; /* as for na_attention with pages */
  na_pages pages;
  na_mirror mirror;
  const int64_t* first;
} na_reflect;

/*
 * Writes, for the segments from first[b] on of a mirror, the means of the keys and of the values of each row: means[b]
 * lists segments of them, which core/mirror.h describes too.
 */
typedef struct na_average {
  const na_tensor *k, *v;
  na_pages pages;
  na_mirror mirror; /* of rows that are no single keys */
  const int64_t* first;
  void* const* const* means;
} na_average;

/*
 * By which the keys that matter to a query are found, too: a graph over the first keys of each sequence, of each key
 * head its own. links[b] is int32 [kvHeads, keys + 1, degree], contiguous: for each key those that it leads to, -1
 * where there are no more, and in the last row those where a search begins, likewise. Every key leads to the one before
 * it and the one behind it, too. Of the keys only the first counts[b] are still there; where counts[b] is 0, links[b]
 * may be NULL.
 */
typedef struct na_key_graph {
  int64_t degree;
  const na_tensor* const* links;
  const int64_t* counts;
} na_key_graph;

/*
 * Makes the graphs of those sequences whose links are given, over all of their keys, of keys that are among the best of
 * the same sample queries: queries is [batch, n, heads, headDim], of the dtype of k, last axis of stride 1. `nearest`,
 * int32, and `products`, float32, both [batch, kvHeads, n * heads / kvHeads, count], are what is known of these: for
 * each the keys of the highest products with it, best first, then -1. When the operation begins they are about the keys
 * that the sequence had when its links were last made; of these the first kept[b] are still there, others have taken
 * the place of the rest. With kept[b] = 0 they have not been written yet.
 */
typedef struct na_link {
  const na_tensor* k; /* as for na_attention with pages */
  na_pages pages;
  const na_tensor* queries;
  const na_tensor *nearest, *products;
  const int64_t* kept;
  na_key_graph graph; /* links[b]: NULL, or of as many keys as there are */
  void* workspace;
} na_link;

/*
 * The `top` keys of the highest scores scale * q k^T of each query head, among those from `sink` on that are not the
 * last `window` ones of their sequence; q is [batch, 1, heads, headDim]. Where a row of the mirror is a key, no key of
 * them is missed, up to the rounding of scores; else only the keys of a share of the rows, those that score highest,
 * are looked at, and those that are in no row. With a graph there is no row: keys are looked at that are found by
 * walking it, and those that are not in it. Ties go to the lower key.
 *
 * To attend, each key head may have its own number in place of `top`, for all its query heads. With 0, or as many as
 * there are, nothing is to be found: no row is scored, and no key but those that are attended to.
 *
 * With means, attention is over more: each row of which no key is among the first `sink`, the last `window` or the best
 * `top` counts as n times its mean key, with its mean value, n being its keys; all keys of the other rows count, and
 * those that are in no row, but for the last `window`.
 */
typedef struct na_retrieve {
  const na_tensor *q, *k, *v; /* k and v as for na_attention with pages */
  na_pages pages;
  na_mirror mirror;
  int64_t sink, window, top;
  const int64_t* tops; /* [kvHeads], 0 and more, in place of top; NULL: top holds for all */
  double probe;        /* share of the rows, but always enough for `top` keys */
  float scale;
  const na_tensor *ids, *scores; /* int32 and float32 [batch, heads, top], best first, then -1 and -infinity, or NULL */
  const na_tensor *out, *lse;    /* attention over these keys and the first `sink` that are not among the last `window`,
                                    contiguous, or NULL */
  const na_tensor* touched;      /* int64 [batch, kvHeads]: keys of which the row or the key itself was scored */
  void* const* const* means;     /* as for na_average, to attend; or NULL */
  const na_key_graph* graph;     /* NULL: none */
  int64_t effort; /* with a graph: of the keys that a query has met, so many best ones, or `top`, lead on */
  void* workspace;
} na_retrieve;

/*
 * dst = src, [batch, n, heads, headDim] in one floating-point type, with rotary position embedding (Su et al. 2021): of
 * token i of batch entry b, at position p = first[b] + i, columns x and y become x cos a - y sin a and x sin a + y cos
 * a, a = p * theta^(-2 j / columns), for each j below columns / 2: of 2 j and 2 j + 1 if interleaved, else of j and j +
 * columns / 2. Further columns stay as they are.
 */
typedef struct na_rotate {
  const na_tensor *src, *dst;
  const int64_t* first;
  double theta;
  int64_t columns;
  int32_t interleaved;
} na_rotate;

/* Copies rows of pages as they are, row_bytes of each, to `bytes` or from there. Those of a run lie pitch bytes apart;
   in `bytes`, which is uint8 and contiguous, all lie side by side, in the order of runs. */
typedef struct na_row_run {
  void* data; /* the first one */
  int64_t rows;
} na_row_run;

typedef struct na_copy_rows {
  const na_tensor* bytes;
  const na_row_run* runs;
  int64_t run_count, row_bytes, pitch;
  int32_t write; /* the rows, else `bytes` */
} na_copy_rows;

/* values[i] becomes element places[i] of `to`, which is int64 and contiguous; places are different. */
typedef struct na_put {
  const na_tensor* to;
  const int64_t *places, *values;
  int64_t count;
} na_put;

/* Writes the plan `out`, of the geometry of its operands. */
typedef enum na_plan_source { NA_PLAN_BLOCKS, NA_PLAN_UNION, NA_PLAN_INTERSECTION } na_plan_source;

typedef struct na_build {
  int32_t source; /* na_plan_source */
  const na_plan* out;
  const na_tensor *offsets, *blocks; /* blocks: int32, of row r those from offsets[r] on, in any order; unchecked */
  const na_plan *a, *b;              /* union, intersection; as causal as out */
  void* workspace;
} na_build;

/* What becomes of the keys of a block. */
typedef enum na_pooling {
  NA_POOL_MEAN,
  NA_POOL_MAX,
  NA_POOL_MIN,
  NA_POOL_BOUNDS /* the maxima, then the minima: twice headDim */
} na_pooling;

/* Writes what stands for the blocks of k, but for those of the first first[b] segments of out, which are there. */
typedef struct na_pool {
  int32_t pooling;
  int32_t block;
  const na_tensor* k;    /* [batch, tokens..., kvHeads, headDim]; with pages as for na_attention, its k or v */
  const na_pages* pages; /* NULL: k has its data */
  int64_t page_offset;   /* where in a page the rows begin: 0, or value_offset */
  na_summaries out;      /* of headDim features or twice that, float32 or of the dtype of k */
  const int64_t* first;  /* where out has segments */
  void* workspace;
} na_pool;

#define NA_MAX_STAGES 8

typedef enum na_selector {
  NA_SELECT_HIP,       /* stages of chunks, each of which finds its best key by bisection on its own */
  NA_SELECT_BISECTION, /* one tree over all keys, whose best nodes are bisected until they are blocks */
  NA_SELECT_POOLED     /* blocks by their pooled keys */
} na_selector;

/*
 * Writes the plan `out`: for each of its rows the blocks of sink and window, and of the others those whose scores with
 * the queries of the row are highest; ties go to the lower block. Scores are shared by the heads of a pattern: the
 * largest counts. Keys are [batch, tokens..., kvHeads, headDim], and out's heads divide kvHeads or are a multiple. With
 * pages each batch entry is selected from as if the plan were for as many keys as it has.
 */
typedef struct na_select {
  int32_t selector;
  const na_plan* out;
  const na_tensor *q, *k;       /* k as for na_attention with pages, if there are */
  const na_pages* pages;        /* or NULL */
  int64_t sink, window;         /* keys: the first ones, and the last up to a query's own, or on both sides of it */
  const int64_t* budgets;       /* [out->heads]: blocks beyond those */
  int32_t stages;               /* HIP: */
  int64_t chunk[NA_MAX_STAGES]; /* keys: powers of two, descending to key_block */
  int64_t keep[NA_MAX_STAGES];  /* keys; 0: the budget, times 4 for each stage behind it. The last is the budget */
  const na_tensor* kept; /* HIP: what earlier calls kept, or NULL: int32 [rows, ...], for each stage the number of
                            chunks and room for kept_room of them, by their first keys, contiguous */
  int64_t kept_room[NA_MAX_STAGES];
  int32_t refreshed_from;     /* HIP with kept: the stages before this one are taken from it, the others written */
  int32_t first;              /* HIP, BISECTION: the first key of a range stands for it, else the middle one */
  const na_summaries* pooled; /* POOLED: what na_pool made of k, or NULL */
  int32_t bounds;             /* POOLED: of NA_POOL_BOUNDS */
  int32_t query_pooling;      /* POOLED: NA_POOL_MEAN, MAX or MIN of the row's queries counts; -1: each of them */
  float scale;                /* POOLED: of scores, for what follows */
  float top_p;     /* POOLED: no more blocks than have this share of the softmax; 1: all that the budget allows */
  float threshold; /* POOLED: no block of a smaller share */
  void* workspace;
  int32_t per_query; /* POOLED: each query selects for itself, with a sink and a window of its own; out has room for a
                        bitmap for each block that a row may list, all keys of it seen by the same queries */
  int32_t tile_queries; /* POOLED: q has one row for each tile of out, [batch, tiles, heads, features of `pooled`] */
  int64_t level_budgets[NA_LEVELS]; /* POOLED: how many blocks get each level of out, from 1 on: those with the highest
                                       scores beyond the budget, but for those that not all queries of a row see whole,
                                       which get none. Not with top_p, threshold or per_query */
} na_select;

/* What a plan says, for people: the first thing wrong with it, how much it shows, and what it shows of each key. */
typedef enum na_plan_fault {
  NA_FAULT_NONE,
  NA_FAULT_OFFSETS, /* descending, or beyond the entries */
  NA_FAULT_RANGE,   /* a block beyond the keys, or wholly behind the causal border */
  NA_FAULT_ORDER, /* not ascending, a partial entry before a full one, one with a level before one without, or twice the
                     same block */
  NA_FAULT_KIND,  /* not the kind that the block needs, a level that the plan has not, or spare bits */
  NA_FAULT_BITMAP /* a bitmap that is not there */
} na_plan_fault;

typedef struct na_inspect {
  const na_plan* plan;
  const na_tensor* report; /* int64 [6]: na_plan_fault, row, block, then pairs of query and key: shown, possible; blocks
                              possible. NULL: none */
  const na_tensor* dense;  /* uint8 [batch, heads, queries, keys], contiguous: 1 where the key is seen. NULL: none */
  void* workspace;
} na_inspect;

/* dst = src, converted to the dtype of dst; equal shapes, any strides. One of the two may be in host memory; unless it
   is pinned, nobody else reads or writes that until done. */
typedef struct na_copy {
  const na_tensor *src, *dst;
  void* workspace; /* on the device */
} na_copy;

/* Every byte of a new allocation becomes 0. */
typedef struct na_zero {
  void* data;
  int64_t bytes;
} na_zero;

/* A point in a stream: the backend writes the device's clock, in nanoseconds, when it is reached. */
typedef struct na_mark {
  int64_t* nanoseconds; /* may be NULL; readable once done was called */
} na_mark;

/* The recorded operations, in their order, as one. */
typedef struct na_graph na_graph;
typedef struct na_launch {
  na_graph* graph;
} na_launch;

typedef enum na_operation_kind {
  NA_OP_ATTENTION,
  NA_OP_MERGE,
  NA_OP_COPY,
  NA_OP_MARK,
  NA_OP_ZERO,
  NA_OP_LAUNCH,
  NA_OP_APPEND,
  NA_OP_ROTATE,
  NA_OP_BUILD,
  NA_OP_INSPECT,
  NA_OP_POOL,
  NA_OP_SELECT,
  NA_OP_REFLECT,
  NA_OP_AVERAGE,
  NA_OP_RETRIEVE,
  NA_OP_LINK,
  NA_OP_PUT,
  NA_OP_COPY_ROWS
} na_operation_kind;

typedef struct na_stream na_stream;
typedef struct na_operation na_operation;

/*
 * One queued operation. The caller keeps it, its arguments and all memory they name alive until `done`,
 * which the backend calls exactly once, in the order of the stream, and after which it touches nothing of
 * it. When *cancelled becomes non-zero the backend ends the operation as early as it can (outputs are then
 * undefined) and still calls done; what is cancelled when it is submitted must not touch its tensors, since the waits
 * of such operations may be left out.
 */
struct na_operation {
  int32_t kind; /* na_operation_kind */
  int32_t reserved;
  const void* args; /* na_attention for NA_OP_ATTENTION, and so on */
  void (*done)(na_operation* operation, const na_error* error /* NULL: succeeded */);
  const int32_t* cancelled; /* read atomically */
  void* link[2];            /* the backend's own while queued */
};

/* "All up to and including the sequence-th operation submitted to stream", counting from 1. */
typedef struct na_wait {
  na_stream* stream;
  uint64_t sequence;
} na_wait;

typedef struct na_device_info {
  char name[128];
  char instruction_set[32]; /* "avx512", "sm_90" ... */
  int32_t threads;          /* worker threads or multiprocessors */
  int64_t memory_bytes;
} na_device_info;

typedef struct na_backend {
  uint32_t abi;  /* NA_BACKEND_ABI */
  uint32_t size; /* sizeof(na_backend) */
  const char* name;
  const char* build; /* NODE_ATTENTION_BUILD: the version, and a hash of this file */

  int32_t oldest_driver; /* the first CUDA version that its driver must speak, like 12080; 0: it needs none */

  int32_t (*device_count)(void);
  void (*device_info)(int32_t device, na_device_info* info);

  /* NA_OK, or the first error after which the device can do nothing more. */
  int (*device_status)(int32_t device, na_error* error);

  /* At least 64-byte aligned. `pinned` asks for host memory that the device can copy from and to by itself; `zeroed` is
     for memory of the host alone, that of a device is zeroed by NA_OP_ZERO.
     Freed only after every operation that names it is done. Freed memory may be pooled for reuse. */
  int (*memory_allocate)(int32_t device, int64_t bytes, int pinned, int zeroed, void** data, na_error* error);
  void (*memory_free)(int32_t device, int64_t bytes, int pinned, void* data);
  int64_t (*memory_pooled)(int32_t device); /* bytes held for reuse */

  int (*stream_create)(int32_t device, na_stream** stream, na_error* error);
  void (*stream_destroy)(na_stream* stream); /* only when every submitted operation is done */

  /* Refuses what this backend cannot run, before anything is enqueued, and says how many bytes of the device's memory
     the operation's arguments are to point to as their workspace. */
  int (*operation_check)(int32_t device, int32_t kind, const void* args, int64_t* workspace_bytes, na_error* error);

  /* Enqueues. `waits` name points of other streams of the same backend, of any of its devices, that were submitted
     before and must be reached first. Cannot fail: a device error is reported through done. */
  void (*submit)(na_stream* stream, na_operation* operation, const na_wait* waits, int32_t wait_count);

  /* To be called after *cancelled was set for all that the stream still holds: ends, from this thread, each operation
     that nobody runs and that waits for nothing. Returns how many. What runs ends by itself. */
  int64_t (*stream_drain)(na_stream* stream);

  /* Makes a graph of operations that are submitted to no stream; their arguments and all memory they name stay alive as
     long as the graph. NULL where graphs are replayed operation by operation. */
  int (*graph_create)(int32_t device, const na_operation* const* operations, int32_t count, na_graph** graph,
                      na_error* error);
  void (*graph_destroy)(na_graph* graph); /* only when every launch is done */
} na_backend;

/* Exported by every backend library under this name. */
typedef const na_backend* (*na_backend_entry)(uint32_t abi);

#ifdef __cplusplus
}
#endif

#endif /* NODE_ATTENTION_CORE_BACKEND_H_ */
