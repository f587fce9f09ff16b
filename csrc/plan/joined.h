// Note [Joined calls]
// Calls of one plan that come while another runs are joined on the batch and run as one: the queue that says who runs
// what with whom is the runtime's (rivulet::batch), and so are the programs; here tensors become a batch and rows.
//
// A batch is filled up to one of a few sizes, so that there are few programs, with rows of its own that nobody gets. The
// caller that runs it waits for the device before the others are told: a result is complete when its call returns, and
// each caller's rows are a view of the batch's.
//
// A call may be left by a signal while others run it; what they write to then stays until the plan is gone.
#pragma once
#include <exception>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "plan/plan.h"
#include "rivulet.h"

namespace rivulet::plan {

struct JoinOptions {
  uint64_t max_batch;
  uint64_t max_in_flight;
  uint64_t max_queue;
  uint64_t max_wait_us;
  bool regroup;
  // How long a waiting thread polls before it sleeps.
  uint64_t spin_us;
};

// The queue of one plan. Any thread, GIL not held.
class Joined {
 public:
  explicit Joined(const JoinOptions& options);
  // No call is inside it.
  ~Joined();
  Joined(const Joined&) = delete;
  Joined& operator=(const Joined&) = delete;

  // True where the tape's calls can be joined: every input has the batch.
  static bool fits(const Tape& tape);
  // Runs the tape for `inputs`, whose batch is `rows`, with the calls of other threads. The outputs are complete.
  std::vector<at::Tensor> call(
      const std::shared_ptr<Variant>& variant, std::vector<at::Tensor> inputs, int64_t rows, uint32_t label);
  // True where calls come back in groups, not at different times. Where several batches run at a time, turns at the
  // GIL made calls slower.
  bool ends_together() const {
    return ends_together_;
  }
  // Runs the tape of the variant once for each size of a batch, with the rows of `inputs`, one of each. Nothing is done
  // for a tape that has no programs.
  void prepare(const std::shared_ptr<Variant>& variant, std::vector<at::Tensor> inputs, uint32_t label);
  std::string stats() const;
  // Lets go of what belongs to variants that are not among these.
  void keep(const std::list<std::shared_ptr<Variant>>& variants);

 private:
  struct Request;
  // What runs the batches of a variant, apart from the frames and programs of its single calls, which the GIL guards.
  struct Runner {
    std::mutex lock;
    std::vector<std::unique_ptr<Frame>> idle;
    std::vector<std::pair<int64_t, std::shared_ptr<const Program>>> programs;
    uint32_t refusals = 0;
  };

  void serve(const std::vector<std::shared_ptr<Request>>& members, const rivulet_batch_turn& turn);
  void run_together(
      const std::vector<std::shared_ptr<Request>>& members, int64_t rows, const rivulet_batch_turn& turn);
  static at::Tensor joined(const std::vector<std::shared_ptr<Request>>& members, size_t index, int64_t batch);
  std::vector<at::Tensor> run(Variant& variant, const std::vector<at::Tensor>& inputs, int64_t batch, uint32_t label);
  std::shared_ptr<Runner> runner_of(const Variant& variant);

  rivulet_batch_queue* queue_ = nullptr;
  const bool ends_together_;
  const int64_t max_batch_;
  std::mutex lock_;
  std::unordered_map<uint64_t, std::shared_ptr<Runner>> runners_;
  std::vector<std::shared_ptr<Request>> left_;
};

} // namespace rivulet::plan
