/* The C interface between PyTorch's side (csrc/, python/) and the Rust runtime. This header is the contract:
 * crates/rivulet-torch/src/ffi/ implements it, and a test compares the two.
 *
 * Status: every function that can fail returns RIVULET_OK or an error code and leaves everything as it was;
 * rivulet_last_error() then gives the calling thread's message. No function throws, unwinds or aborts.
 * GIL: any function may be called with or without Python's GIL. Those that wait release it first and take it
 * back before they return. Ids of streams and events are process-wide. */
#ifndef RIVULET_H
#define RIVULET_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum rivulet_status {
  RIVULET_OK = 0,
  RIVULET_ERROR = 1,          /* RuntimeError */
  RIVULET_OUT_OF_MEMORY = 2,  /* torch.OutOfMemoryError */
  RIVULET_INTERRUPTED = 3,    /* a Python exception (Ctrl-C) is set on this thread */
  RIVULET_INVALID = 4,        /* ValueError in Python-facing calls, RuntimeError in ops */
  RIVULET_NO_KERNEL = 5,      /* the device has no kernel for this; nothing was recorded */
};

/* Message of the last failure on this thread; valid until its next failing call. Never null. */
const char *rivulet_last_error(void);

/* --- life ------------------------------------------------------------------------------------------- */
/* Library version, e.g. "0.1.0". */
const char *rivulet_version(void);
/* 1 where an adapter can be opened (none is opened by asking), 0 otherwise with a message. */
int32_t rivulet_is_available(void);
/* JSON: every adapter on this machine; loads Vulkan's drivers where there are any. *out is freed with
 * rivulet_string_free. */
int32_t rivulet_adapters_json(char **out);
/* JSON: the adapter in use or to be used. Loads no driver unless the settings name an adapter, or leave the choice and
 * the machine has a GPU. */
int32_t rivulet_adapter_json(char **out);
/* JSON of streams, pool use, memory, adapter, settings. Takes no slot. */
int32_t rivulet_report_json(char **out);
/* JSON of GPU kernels: the families and the pointwise ops that there are, which kernels were compiled so far, and which
 * the driver's compiler refused, with its words. Takes no slot. */
int32_t rivulet_kernels_json(char **out);
void rivulet_string_free(char *text);
/* 1 in a process forked after the device was used. */
int32_t rivulet_in_bad_fork(void);
/* Called by Python's atexit: later calls from remaining threads fail with a message or do nothing. */
void rivulet_shutdown(void);

/* --- captures ---------------------------------------------------------------------------------------- */
/* *enabled: whether a capture can be begun, on Metal in a process started with MTL_CAPTURE_ENABLED=1. *recording: whether
 * one is recorded, by anybody in this process. Opens no device but one of Metal's. */
int32_t rivulet_capture_state(int32_t *enabled, int32_t *recording);
/* Records all streams from now on into the document NNNN-name.gputrace. Waits for what they were given before. */
int32_t rivulet_capture_start(const char *name);
/* Ends it and writes the document, also where it returns an error. Nothing where none was begun. */
int32_t rivulet_capture_stop(void);

/* --- streams ---------------------------------------------------------------------------------------- */
/* Stream of the calling thread. Takes a pool slot where it has none; may wait (see the pool's settings). */
int32_t rivulet_stream_current(uint32_t *id);
/* The same as the return value, which spares a caller from Python the place for it; negative: -status. */
int64_t rivulet_stream_here(void);
/* The same, but never takes a slot: the default stream stands in. *has_slot is 0 then. */
int32_t rivulet_stream_peek(uint32_t *id, int32_t *has_slot);
/* Sets the calling thread's stream and gives the previous one (RIVULET_NO_STREAM: none was set and none
 * taken yet). Passing RIVULET_NO_STREAM goes back to the thread's own slot. */
#define RIVULET_NO_STREAM UINT32_MAX
int32_t rivulet_stream_exchange(uint32_t id, uint32_t *previous);
/* A further stream outside the slots (round robin over 32 a priority). priority: 0 or -1 (first). */
int32_t rivulet_stream_new(int32_t priority, uint32_t *id);
/* RIVULET_INVALID where no such stream exists. */
int32_t rivulet_stream_check(uint32_t id);
int32_t rivulet_stream_query(uint32_t id, int32_t *done);
int32_t rivulet_stream_synchronize(uint32_t id);
/* Waits for what every stream held at the call. */
int32_t rivulet_synchronize(void);
/* Gives the calling thread's slot back (nothing where it has none). */
int32_t rivulet_thread_release(void);
/* callback() is called on a Python thread, GIL held, when it takes a slot, so that Python can hook the thread's
 * end. */
void rivulet_set_thread_callback(void (*callback)(void));

/* --- events ----------------------------------------------------------------------------------------- */
/* Handles are never reused within a process. */
int32_t rivulet_event_new(int32_t timing, uint64_t *event);
void rivulet_event_free(uint64_t event);
/* Stream ids here may be RIVULET_NO_STREAM: the calling thread's current stream (takes a slot). */
int32_t rivulet_event_record(uint64_t event, uint32_t stream);
int32_t rivulet_event_wait(uint64_t event, uint32_t stream);
/* *done is 1 where the recorded work is complete; an event never recorded counts as 0 here. */
int32_t rivulet_event_query(uint64_t event, int32_t *done, int32_t *recorded);
int32_t rivulet_event_synchronize(uint64_t event);
int32_t rivulet_event_elapsed(uint64_t start, uint64_t end, double *milliseconds);

/* --- memory ----------------------------------------------------------------------------------------- */
typedef struct rivulet_block rivulet_block;
/* bytes > 0. *data is where the tensor's bytes are. */
int32_t rivulet_alloc(size_t bytes, void **data, rivulet_block **block);
/* The same, for bytes that the CPU writes before the device uses them: the block's earlier life is over when the call
 * returns. */
int32_t rivulet_alloc_host(size_t bytes, void **data, rivulet_block **block);
/* Takes over host memory that somebody else allocated (host adapter only); drop(owner) is called when the
 * block is freed and idle. Fails only where the adapter cannot alias host memory. */
int32_t rivulet_adopt(void *data, size_t bytes, void *owner, void (*drop)(void *), rivulet_block **block);
/* Any thread, no GIL needed, never waits. In a forked child it does nothing. */
void rivulet_free(rivulet_block *block);
/* The live block that holds this address, or null. */
rivulet_block *rivulet_block_of(const void *address);
/* 1 where the address is in memory of the runtime, live or not; also after shutdown and in a forked child, where 1
 * may mean that it cannot be told. */
int32_t rivulet_holds(const void *address);
typedef struct {
  uint64_t allocated, reserved, driver, recommended_max;    /* bytes now */
  uint64_t peak_allocated, peak_reserved;
  uint64_t alloc_count, free_count, alloc_bytes, free_bytes; /* since start or reset */
  uint64_t active_blocks, ooms, retries;
} rivulet_memory_stats;
int32_t rivulet_memory(rivulet_memory_stats *out);
int32_t rivulet_memory_reset(int32_t peak_only);
int32_t rivulet_empty_cache(void);
int32_t rivulet_set_memory_fraction(double fraction);

/* --- ops on the CPU path ------------------------------------------------------------------------------ */
typedef struct {
  rivulet_block *block;
  uint32_t write;
} rivulet_operand;
/* Opaque; lives on the caller's stack from begin to end. */
typedef struct {
  uint64_t opaque[64];
} rivulet_host_scope;
/* Starts a CPU access as an operation of the thread's stream: waits for conflicting work on the operands and
 * holds them until rivulet_host_end. A block may be named twice. op is from rivulet_op_id. */
int32_t rivulet_host_begin(uint32_t op, const rivulet_operand *operands, size_t count, rivulet_host_scope *scope);
void rivulet_host_end(rivulet_host_scope *scope);
/* Copies `bytes` between CPU memory and `device`, an address inside the block, as an operation of the thread's stream.
 * Moves these bytes alone. Complete when it returns. RIVULET_NO_KERNEL for adopted memory. op is from rivulet_op_id. */
int32_t rivulet_read(uint32_t op, const rivulet_block *block, const void *device, void *host, size_t bytes);
int32_t rivulet_write(uint32_t op, const rivulet_block *block, const void *device, const void *host, size_t bytes);
/* Threads that a CPU kernel of the calling thread should use now: the machine's cores over the threads that are
 * inside an op, at least 1. 0 where the user has fixed the number through the environment. Called between begin and
 * end. */
int32_t rivulet_kernel_threads(void);
/* Id of an op overload name such as "aten::add.Tensor"; same name, same id. */
uint32_t rivulet_op_id(const char *name);
/* JSON object, op name to calls that ran on the CPU path of a GPU adapter. */
int32_t rivulet_fallback_json(char **out);
void rivulet_fallback_reset(void);

/* --- native ops ---------------------------------------------------------------------------------------- */
/* *answer is 1 where the adapter in use has kernels, 0 where ops run on the CPU. Opens the device. */
int32_t rivulet_has_kernels(int32_t *answer);
enum rivulet_dtype {
  RIVULET_F32 = 0,
  RIVULET_F16 = 1,
  RIVULET_BF16 = 2,
  RIVULET_I64 = 3,
  RIVULET_I32 = 4,
  RIVULET_I16 = 5,
  RIVULET_I8 = 6,
  RIVULET_U8 = 7,
  RIVULET_BOOL = 8,
};
#define RIVULET_NO_DTYPE UINT32_MAX
#define RIVULET_NO_OP UINT32_MAX
/* A number; both fields hold it as well as they can. */
typedef struct {
  double real;
  int64_t integer;
  uint32_t is_float;
} rivulet_scalar;
/* A tensor: element [i...] lies at data + sum(i * strides) elements. */
typedef struct {
  rivulet_block *block;      /* null: `scalar` is the one element, for inputs */
  const void *data;          /* inside the block */
  const int64_t *sizes;      /* outermost dimension first */
  const int64_t *strides;    /* in elements */
  rivulet_scalar scalar;
  uint32_t rank;
  uint32_t dtype;            /* enum rivulet_dtype */
} rivulet_view;
/* Each of the following records kernels on the calling thread's stream and returns at once. RIVULET_NO_KERNEL where
 * there is none for these types or sizes; the caller takes the CPU path then. Optional views may be null. Semantics
 * are those of the function of the same name in rivulet::ops. */
/* Number of a kernel op by its name, such as "add" or "amax"; RIVULET_NO_OP where there is none. */
uint32_t rivulet_pointwise_op(const char *name);
uint32_t rivulet_reduce_op(const char *name);
/* views: the output, then the inputs; all with the output's sizes. */
int32_t rivulet_pointwise(uint32_t op, uint32_t common, const rivulet_view *views, size_t count,
                          const rivulet_scalar *scalars, size_t scalar_count);
/* seed: of the numbers; drawn once for each op. */
int32_t rivulet_random(uint32_t op, const rivulet_view *out, const rivulet_scalar *scalars, size_t scalar_count,
                       uint64_t seed);
/* Bit d of `reduced`: dimension d goes. The outputs have x's sizes; their strides along reduced dimensions do not
 * matter. */
int32_t rivulet_reduce(uint32_t op, const rivulet_view *values, const rivulet_view *places, const rivulet_view *x,
                       uint64_t reduced, double factor);
int32_t rivulet_softmax(int32_t logarithm, const rivulet_view *out, const rivulet_view *x, uint32_t dim);
int32_t rivulet_softmax_backward(int32_t logarithm, const rivulet_view *out, const rivulet_view *grad,
                                 const rivulet_view *output, uint32_t dim);
int32_t rivulet_layer_norm(const rivulet_view *out, const rivulet_view *mean, const rivulet_view *rstd,
                           const rivulet_view *x, const rivulet_view *weight, const rivulet_view *bias, double eps);
/* The gradients are optional; rows of [rows, size]. */
int32_t rivulet_layer_norm_backward(const rivulet_view *grad_x, const rivulet_view *grad_weight,
                                    const rivulet_view *grad_bias, const rivulet_view *grad, const rivulet_view *x,
                                    const rivulet_view *mean, const rivulet_view *rstd, const rivulet_view *weight);
/* weight, bias, mean and rstd are optional, the last two together. */
int32_t rivulet_group_norm(const rivulet_view *out, const rivulet_view *mean, const rivulet_view *rstd,
                           const rivulet_view *x, const rivulet_view *weight, const rivulet_view *bias,
                           uint32_t groups, double eps);
/* (x - mean) rstd weight + bias for each channel of [samples, channels, ...]; spread is the variance, to which eps is
 * added, where is_variance, else rstd. weight and bias are optional. */
int32_t rivulet_batch_norm(const rivulet_view *out, const rivulet_view *x, const rivulet_view *mean,
                           const rivulet_view *spread, int32_t is_variance, const rivulet_view *weight,
                           const rivulet_view *bias, double eps);
/* Of dense [planes, depth, height, width]. kind 0: the largest element of each window, and its place. 1: the average,
 * 2: the gradient of its input; divided by `divisor`, or where that is 0 by the places of the window, with those of the
 * padding where asked. geometry: kernel, stride, padding and dilation of depth, height and width; null for windows that
 * cut x into as many parts as out has places. places is for kind 0 alone. */
int32_t rivulet_pool(uint32_t kind, const rivulet_view *out, const rivulet_view *places, const rivulet_view *x,
                     const uint32_t geometry[12], int32_t include_padding, int64_t divisor);
/* Of dense [planes, depth, height, width]. mode 0: nearest, 1: nearest-exact, 2: linear, 3: linear with aligned corners.
 * scale: places of x for each of out. */
int32_t rivulet_resample(uint32_t mode, int32_t backward, const rivulet_view *out, const rivulet_view *x,
                         const float scale[3]);
/* Between a dense image [samples, channels, height, width] and its blocks as columns. geometry: kernel, stride, padding
 * and dilation of height and width. */
int32_t rivulet_unfold(int32_t fold, const rivulet_view *out, const rivulet_view *x, const uint32_t geometry[8]);
/* Where values belong in sorted rows; order, which sorts rows that are not, is optional. */
int32_t rivulet_search(const rivulet_view *out, const rivulet_view *rows, const rivulet_view *values,
                       const rivulet_view *order, int32_t right);
/* out [batch, m, n], dense, of a [batch, m, k] and b [batch, k, n], all of one type of integers. */
int32_t rivulet_int_matmul(const rivulet_view *out, const rivulet_view *a, const rivulet_view *b);
/* values and indices may be shorter than x along dim: the first of the sorted elements. */
int32_t rivulet_sort(const rivulet_view *values, const rivulet_view *indices, const rivulet_view *x, uint32_t dim,
                     int32_t descending);
/* kind 0: out = convolution of x by weight. 1: transposed, which is the gradient of the input. 2: out is the gradient of
 * the weight, x that of the output and weight the input. bias is optional and must be null for 2. geometry: stride,
 * padding and dilation along height and along width, then groups. */
int32_t rivulet_convolution(uint32_t kind, const rivulet_view *out, const rivulet_view *x, const rivulet_view *weight,
                            const rivulet_view *bias, const uint32_t geometry[7]);
/* kind: 0 sum, 1 product, 2 maximum, 3 minimum, 4 logarithm of the sum of exponentials. */
int32_t rivulet_scan(uint32_t kind, const rivulet_view *out, const rivulet_view *x, uint32_t dim);
/* The largest or smallest so far with its place; the places are dense. */
int32_t rivulet_scan_places(int32_t largest, const rivulet_view *out, const rivulet_view *places, const rivulet_view *x,
                            uint32_t dim);
/* Negative log likelihood: out from x, or with `backward` out, the gradient of x, from x, that of the loss. kind: 0 each,
 * 1 mean, 2 sum. total: sum of the weights, for 1 and 2. weight is optional. */
int32_t rivulet_nll_loss(int32_t backward, const rivulet_view *out, const rivulet_view *total, const rivulet_view *x,
                         const rivulet_view *target, const rivulet_view *weight, uint32_t kind, int64_t ignored);
/* out: [rows, size]; padding: a row that gets nothing, or negative. */
int32_t rivulet_embedding_backward(const rivulet_view *out, const rivulet_view *grad, const rivulet_view *indices,
                                   int64_t padding, int32_t by_frequency);
/* By reflection, or by replication. edges: places before and after, of the last dimension first. */
int32_t rivulet_pad(int32_t replicate, int32_t backward, const rivulet_view *out, const rivulet_view *x,
                    const int64_t *edges, size_t dims);
/* activation: of rivulet_pointwise_op, or RIVULET_NO_OP. */
int32_t rivulet_matmul(const rivulet_view *out, const rivulet_view *a, const rivulet_view *b, const rivulet_view *bias,
                       double alpha, double beta, uint32_t activation);
/* Dense inputs of one type one after another into dense out. */
int32_t rivulet_join(const rivulet_view *out, const rivulet_view *inputs, size_t count);
int32_t rivulet_gather(const rivulet_view *out, const rivulet_view *x, uint32_t dim, const rivulet_view *index);
/* kind: 0 assign, 1 add, 2 multiply, 3 maximum, 4 minimum. source null: `value` instead. */
int32_t rivulet_scatter(uint32_t kind, const rivulet_view *out, uint32_t dim, const rivulet_view *index,
                        const rivulet_view *source, rivulet_scalar value);
int32_t rivulet_index_select(const rivulet_view *out, const rivulet_view *x, uint32_t dim, const rivulet_view *index);
/* views: out, x, then `indices` of them; sizes and strides (in elements) of the dimensions that are indexed. */
int32_t rivulet_index(const rivulet_view *views, size_t indices, const int64_t *sizes, const int64_t *strides);
/* views: out, source, then indices. */
int32_t rivulet_index_put(const rivulet_view *views, size_t indices, const int64_t *sizes, const int64_t *strides,
                          int32_t accumulate);
int32_t rivulet_attention(const rivulet_view *out, const rivulet_view *logsumexp, const rivulet_view *q,
                          const rivulet_view *k, const rivulet_view *v, const rivulet_view *mask, int32_t causal,
                          double scale);

/* --- random numbers ----------------------------------------------------------------------------------- */
typedef struct rivulet_rng rivulet_rng;
rivulet_rng *rivulet_rng_new(uint64_t seed);
rivulet_rng *rivulet_rng_clone(const rivulet_rng *rng);
void rivulet_rng_free(rivulet_rng *rng);
void rivulet_rng_seed(rivulet_rng *rng, uint64_t seed);
uint64_t rivulet_rng_get_seed(const rivulet_rng *rng);
uint64_t rivulet_rng_get_offset(const rivulet_rng *rng);
void rivulet_rng_set(rivulet_rng *rng, uint64_t seed, uint64_t offset);
/* Reserves a range of the counter and gives a 64-bit seed that no other call gets. */
uint64_t rivulet_rng_draw(rivulet_rng *rng);

/* --- joined calls --------------------------------------------------------------------------------------- */
/* A queue in which calls that arrive while others run are joined: see rivulet::batch. A request is known by the token
 * that its caller gives it. */
typedef struct rivulet_batch_queue rivulet_batch_queue;
typedef struct rivulet_batch_run rivulet_batch_run;
typedef struct rivulet_batch_ticket rivulet_batch_ticket;
enum rivulet_batch_verdict {
  RIVULET_BATCH_DONE = 0,      /* somebody has run the request */
  RIVULET_BATCH_RUN = 1,       /* the caller has to run this batch */
  RIVULET_BATCH_QUEUED = 2,    /* submitted */
  RIVULET_BATCH_FULL = 3,      /* refused */
  RIVULET_BATCH_CLOSED = 4,    /* refused; of rivulet_batch_serve: there is nothing more to come */
  RIVULET_BATCH_TIMED_OUT = 5, /* the request was taken back */
};
typedef struct {
  rivulet_batch_run *run;  /* for RIVULET_BATCH_RUN, else null; ended by rivulet_batch_end */
  const uint64_t *tokens;  /* of its members, as long as it lasts */
  uint64_t count;
  uint32_t verdict;        /* enum rivulet_batch_verdict */
} rivulet_batch_turn;
/* Limits are > 0. regroup: a runner waits for the members of the batch before it to come back. spin_us: how long a
 * waiting thread polls before it sleeps; 0 for callers that hold the GIL. */
int32_t rivulet_batch_new(uint64_t max_batch, uint64_t max_in_flight, uint64_t max_queue, uint64_t max_wait_us,
                          int32_t regroup, uint64_t spin_us, rivulet_batch_queue **queue);
/* No call is inside it, and none follows. Runs and tickets may outlive it. */
void rivulet_batch_free(rivulet_batch_queue *queue);
/* Waits until the request was run, or has to be. refuse: do not wait where the queue is full. timeout_us < 0: none. */
int32_t rivulet_batch_call(rivulet_batch_queue *queue, uint64_t token, uint64_t key, uint64_t rows, int32_t refuse,
                           int64_t timeout_us, rivulet_batch_turn *turn);
/* Leaves a request for rivulet_batch_serve or another caller. wait: until there is room. */
int32_t rivulet_batch_submit(rivulet_batch_queue *queue, uint64_t token, uint64_t key, uint64_t rows, int32_t refuse,
                             int32_t wait, int64_t timeout_us, rivulet_batch_ticket **ticket,
                             rivulet_batch_turn *turn);
/* Waits for a batch of submitted requests. */
int32_t rivulet_batch_serve(rivulet_batch_queue *queue, rivulet_batch_turn *turn);
/* The rest of turn->run is short: some of the threads that sleep for it come awake. Does nothing where it is null. */
void rivulet_batch_announce(const rivulet_batch_turn *turn);
/* Ends turn->run and sets it to null; does nothing where it is null. served: every member has its result. Otherwise they
 * are queued again, but for the one whose caller ran them. in_turn: members are woken no faster than those before them
 * get the GIL, for which they call rivulet_gil_await_turn; the GIL is not held. */
void rivulet_batch_end(rivulet_batch_turn *turn, int32_t served, int32_t in_turn);
/* 1 where the request had not been taken into a batch. */
int32_t rivulet_batch_cancel(rivulet_batch_ticket *ticket);
void rivulet_batch_ticket_free(rivulet_batch_ticket *ticket);
/* No more requests; those that wait are still run. Does not wait. */
void rivulet_batch_close(rivulet_batch_queue *queue);
int32_t rivulet_batch_stats_json(rivulet_batch_queue *queue, char **out);

/* --- PyTorch ------------------------------------------------------------------------------------------- */
/* Registers hooks, guard, allocator and kernels for mps with the PyTorch of this process, after looking at what is
 * there. Call once, at the end of `import torch`, GIL held. accelerator: 0 chooses mps where no CUDA device is
 * present, 1 mps, 2 cuda. On failure mps stays unavailable; rivulet_last_error says why. */
int32_t rivulet_torch_register(int32_t accelerator);
/* Finds kernels for mps that other libraries have registered since, and puts ours in their place; the allocator and the
 * device guard likewise. op: an op's name with its overload, "" for the ops that were defined or withdrawn since the
 * last call, null for all. Any thread, after rivulet_torch_register. */
int32_t rivulet_torch_look_again(const char *op);
/* Takes back what the call above registered for an op that has no kernel for mps, before Python registers one. */
int32_t rivulet_torch_make_room(const char *op);
/* JSON, a list of what PyTorch or another library had registered for mps and is reached no more: {"part": "hooks",
 * "allocator", "guard", "fallback" or "kernel", "name", "key", "from", "now", "later"}. *out is freed with
 * rivulet_string_free. */
int32_t rivulet_torch_displaced_json(char **out);
/* The PyTorch version that the C++ adaptor was compiled against, e.g. "2.11.0"; "" where it was left out. */
const char *rivulet_torch_built_for(void);

/* --- programs: device work noted once and run again --------------------------------------------------- */
/* A program is what one thread recorded between begin and end, as dispatches, copies and fills: bound to new inputs
 * and with memory of its own at each run, on any thread, any number at a time. Blocks that existed before and are no
 * input are shared by all runs (weights). */
typedef struct rivulet_program rivulet_program;
/* The bytes of a block that a tensor covers; data is the tensor's first byte. */
typedef struct {
  rivulet_block *block;
  const void *data;
  size_t bytes;
} rivulet_span;
/* Starts noting what the calling thread records; the work itself runs as always. One at a time a thread.
 * RIVULET_NO_KERNEL where the adapter runs ops on the CPU. */
int32_t rivulet_program_begin(const rivulet_span *inputs, size_t count);
/* Ends it. outputs: what the caller keeps; their memory is made anew at each run, but for outputs that lie in an input
 * or in a shared block. RIVULET_NO_KERNEL where something happened that cannot be run again: a CPU access of memory
 * that the noted work wrote (the message names the op). The noting is over in any case. */
int32_t rivulet_program_end(const rivulet_span *outputs, size_t count, rivulet_program **program);
/* Ends it without a program. Nothing where none has begun. */
void rivulet_program_abandon(void);
void rivulet_program_free(rivulet_program *program);
/* Where output `index` lies. kind 0: in the fresh block number `*place`, at byte `*offset`; 1: in input `*place`, at
 * `*offset` from its data; 2: in the shared block `*shared`, at `*offset` from the block's first byte. */
int32_t rivulet_program_output(const rivulet_program *program, size_t index, uint32_t *kind, size_t *place,
                               size_t *offset, rivulet_block **shared);
/* Number of fresh blocks that each run makes for outputs, and the size of each. */
size_t rivulet_program_fresh(const rivulet_program *program);
/* Runs it on the calling thread's stream and returns at once. inputs as at begin: as many, each with as many bytes.
 * fresh gets rivulet_program_fresh() blocks, data their first bytes; the caller frees them. rng: where random ops draw
 * a new seed for each run. On failure nothing was recorded. */
int32_t rivulet_program_run(const rivulet_program *program, const rivulet_span *inputs, size_t count,
                            rivulet_rng *rng, rivulet_block **fresh, void **data);
/* JSON: commands with kernels and labels, fusions made, barriers, bytes of arena, of outputs, and of the eager run's
 * peak. *out is freed with rivulet_string_free. */
int32_t rivulet_program_json(const rivulet_program *program, char **out);

/* --- plans --------------------------------------------------------------------------------------------- */
/* Gives the GIL up where the calling thread holds it; the token goes to rivulet_gil_retake on the same thread. A thread
 * that comes back while the process ends stays there for ever, as after a wait. */
uint64_t rivulet_gil_release(void);
void rivulet_gil_retake(uint64_t token);
/* Before rivulet_gil_retake, by a thread that comes back from its wait together with others: returns when it is
 * worthwhile to ask for the GIL. */
void rivulet_gil_await_turn(void);
/* What csrc/plan shows to Python: a new reference to a tuple of the type PlanBase and functions. torch_python: path of
 * PyTorch's library with its Python bindings. GIL held. *out is null where a Python error is set. */
int32_t rivulet_plan_surface(const char *torch_python, void **out);
/* Of one tape: whether its CPU kernels are faster on several threads. Any thread may use it. */
typedef struct rivulet_pace rivulet_pace;
typedef struct {
  /* What the kernels of the run should use; 0 where the user has fixed it through the environment. */
  int32_t threads;
  uint32_t way;
  int64_t batch;
  uint64_t began;
} rivulet_pace_run;
/* Null where there is no memory for it. */
rivulet_pace *rivulet_pace_new(void);
void rivulet_pace_free(rivulet_pace *pace);
/* A call of a plan with CPU kernels begins and ends, until it has the GIL again: the cores are shared among those. */
void rivulet_pace_enter(void);
void rivulet_pace_leave(void);
/* Around the kernels of one run, inside a CPU access. One that failed has no end. batch: as it is, or -1. */
void rivulet_pace_begin(const rivulet_pace *pace, int64_t batch, rivulet_pace_run *run);
void rivulet_pace_end(const rivulet_pace *pace, const rivulet_pace_run *run);
/* 1 and the nanoseconds that a run usually takes on one thread and on several, of the smallest batch that was measured.
 * 0 where nothing was. */
int32_t rivulet_pace_times(const rivulet_pace *pace, uint64_t *one, uint64_t *many);

#ifdef __cplusplus
}
#endif
#endif
