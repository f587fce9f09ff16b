#include <c10/core/ScalarType.h>

#include <cstring>

#include "plan/tape.h"

namespace rivulet::plan {

namespace {

constexpr uint32_t kFormat = 1;

// Reads what _plan_tape.py writes: little-endian, texts and lists with their length before them.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  T number() {
    TORCH_CHECK_VALUE(bytes_.size() >= sizeof(T), "a plan's tape ends in the middle of a number");
    T value;
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_.remove_prefix(sizeof(T));
    return value;
  }
  uint32_t count() {
    auto value = number<uint32_t>();
    // Every element takes at least a byte, so that a wrong length cannot ask for all memory.
    TORCH_CHECK_VALUE(value <= bytes_.size(), "a plan's tape has a list longer than itself: ", value);
    return value;
  }
  std::string text() {
    auto length = count();
    std::string value(bytes_.substr(0, length));
    bytes_.remove_prefix(length);
    return value;
  }
  bool at_end() const {
    return bytes_.empty();
  }

 private:
  std::string_view bytes_;
};

c10::IValue dtype_named(const std::string& name) {
  const auto& known = c10::getStringToDtypeMap();
  auto found = known.find(name);
  TORCH_CHECK_VALUE(found != known.end(), "a plan's tape names the dtype ", name, ", which this PyTorch lacks");
  return found->second;
}

c10::IValue memory_format_named(const std::string& name) {
  if (name == "contiguous_format") {
    return at::MemoryFormat::Contiguous;
  }
  if (name == "preserve_format") {
    return at::MemoryFormat::Preserve;
  }
  if (name == "channels_last") {
    return at::MemoryFormat::ChannelsLast;
  }
  TORCH_CHECK_VALUE(name == "channels_last_3d", "a plan's tape names the memory format ", name, ", which is unknown");
  return at::MemoryFormat::ChannelsLast3d;
}

const c10::Type& without_optional(const c10::Type& type) {
  return type.kind() == c10::TypeKind::OptionalType ? *type.castRaw<c10::OptionalType>()->getElementType() : type;
}

class TapeReader {
 public:
  TapeReader(std::string_view bytes, const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& shared)
      : reader_(bytes) {
    auto format = reader_.number<uint32_t>();
    TORCH_CHECK_VALUE(format == kFormat, "a plan's tape has format ", format, "; this Rivulet reads format ", kFormat);
    read_inputs(inputs);
    read_shared(shared);
    tape_.values = reader_.number<uint32_t>();
    known_.assign(tape_.inputs.size() + tape_.shared.size(), true);
    TORCH_CHECK_VALUE(
        tape_.values >= known_.size() && tape_.values < (1u << 28), "a plan's tape has ", tape_.values, " values");
    known_.resize(tape_.values, false);
    auto steps = reader_.count();
    for (uint32_t i = 0; i < steps; ++i) {
      read_step();
    }
    auto outputs = reader_.count();
    for (uint32_t i = 0; i < outputs; ++i) {
      auto slot = known_slot();
      tape_.outputs.push_back({slot, reader_.number<uint8_t>() != 0});
    }
    TORCH_CHECK_VALUE(reader_.at_end(), "a plan's tape goes on after its end");
    note_last_uses();
  }

  Tape take() {
    return std::move(tape_);
  }

 private:
  void read_inputs(const std::vector<at::Tensor>& inputs) {
    auto count = reader_.count();
    TORCH_CHECK_VALUE(count == inputs.size(), "a plan's tape has ", count, " inputs, given ", inputs.size());
    for (const auto& tensor : inputs) {
      auto flags = reader_.number<uint8_t>();
      tape_.inputs.push_back(
          {tensor.scalar_type(), tensor.device().type(), c10::DimVector(tensor.sizes()),
           c10::DimVector(tensor.strides()), (flags & 1) != 0, (flags & 2) != 0});
    }
  }

  void read_shared(const std::vector<at::Tensor>& shared) {
    auto count = reader_.count();
    TORCH_CHECK_VALUE(count == shared.size(), "a plan's tape has ", count, " shared tensors, given ", shared.size());
    for (const auto& tensor : shared) {
      auto flags = reader_.number<uint8_t>();
      const auto* storage = tensor.storage().unsafeGetStorageImpl();
      tape_.shared.push_back({tensor, (flags & 2) != 0, storage, storage->data()});
    }
  }

  uint32_t known_slot() {
    auto slot = reader_.number<uint32_t>();
    TORCH_CHECK_VALUE(slot < tape_.values && known_[slot], "a plan's tape reads value ", slot, " before it is made");
    return slot;
  }

  uint32_t new_slot() {
    auto slot = reader_.number<uint32_t>();
    if (slot != kNoSlot) {
      TORCH_CHECK_VALUE(slot < tape_.values && !known_[slot], "a plan's tape makes value ", slot, " twice");
      known_[slot] = true;
    }
    return slot;
  }

  void read_step() {
    auto name = reader_.text();
    auto overload = reader_.text();
    auto op = c10::Dispatcher::singleton().findSchema({name, overload});
    TORCH_CHECK_VALUE(
        op.has_value(), "a plan uses the op ", name, overload.empty() ? "" : ".", overload, ", which this PyTorch lacks");
    Step step{*op, {}, {}, {}};
    const auto& schema = op->schema();
    auto arguments = reader_.count();
    TORCH_CHECK_VALUE(
        arguments == schema.arguments().size(), "a plan calls ", name, " with ", arguments, " arguments; it has ",
        schema.arguments().size());
    for (const auto& argument : schema.arguments()) {
      step.arguments.push_back(read_argument(argument));
    }
    auto results = reader_.count();
    TORCH_CHECK_VALUE(
        results == schema.returns().size(), "a plan expects ", results, " results of ", name, "; it has ",
        schema.returns().size());
    for (uint32_t i = 0; i < results; ++i) {
      bool is_list = reader_.number<uint8_t>() != 0;
      const auto& type = *schema.returns()[i].type();
      TORCH_CHECK_VALUE(
          is_list == (type.kind() == c10::TypeKind::ListType), "a plan mistakes result ", i, " of ", name);
      if (!is_list) {
        auto slot = new_slot();
        TORCH_CHECK_VALUE(
            slot == kNoSlot || type.kind() == c10::TypeKind::TensorType, "a plan keeps result ", i, " of ", name,
            ", which is no tensor");
        step.results.push_back({false, slot});
        continue;
      }
      std::vector<uint32_t> slots(reader_.count());
      for (auto& slot : slots) {
        slot = new_slot();
      }
      step.results.push_back({true, keep(std::move(slots))});
    }
    tape_.steps.push_back(std::move(step));
  }

  uint32_t keep(std::vector<uint32_t> slots) {
    tape_.lists.push_back(std::move(slots));
    return static_cast<uint32_t>(tape_.lists.size() - 1);
  }

  Argument constant(Constant value) {
    tape_.constants.push_back(std::move(value));
    return {Argument::Kind::Constant, static_cast<uint32_t>(tape_.constants.size() - 1)};
  }

  Argument constant(c10::IValue value) {
    return constant(Constant{std::move(value), {}, false, false});
  }

  // Python's numbers may stand for tensors.
  Argument scalar(const c10::Type& type, c10::IValue value) {
    return constant(Constant{std::move(value), {}, false, type.kind() == c10::TypeKind::TensorType});
  }

  Affine affine() {
    auto base = reader_.number<int64_t>();
    return {base, reader_.number<int64_t>()};
  }

  Argument read_argument(const c10::Argument& argument) {
    const auto& type = without_optional(*argument.type());
    auto tag = reader_.number<char>();
    if (type.kind() == c10::TypeKind::GeneratorType) {
      TORCH_CHECK_VALUE(tag == 'N' || tag == 'D', "a plan cannot keep a generator");
      return {Argument::Kind::Generator, 0};
    }
    switch (tag) {
      case 'D':
        TORCH_CHECK_VALUE(argument.default_value().has_value(), argument.name(), " has no default");
        return constant(*argument.default_value());
      case 'N':
        return constant(c10::IValue());
      case 'T': {
        TORCH_CHECK_VALUE(type.kind() == c10::TypeKind::TensorType, argument.name(), " takes no tensor");
        return {Argument::Kind::Slot, known_slot()};
      }
      case 'L':
        return read_tensors(type, argument.name());
      case 'i':
        return read_integer(type, argument);
      case 'I':
        return read_integers(type);
      case 'f':
        return scalar(type, reader_.number<double>());
      case 'b':
        return scalar(type, reader_.number<uint8_t>() != 0);
      case 'c': {
        auto real = reader_.number<double>();
        return scalar(type, c10::complex<double>(real, reader_.number<double>()));
      }
      case 's':
        return constant(reader_.text());
      case 'F': {
        c10::List<double> list;
        auto count = reader_.count();
        for (uint32_t i = 0; i < count; ++i) {
          list.push_back(reader_.number<double>());
        }
        return constant(std::move(list));
      }
      case 'B': {
        c10::List<bool> list;
        auto count = reader_.count();
        for (uint32_t i = 0; i < count; ++i) {
          list.push_back(reader_.number<uint8_t>() != 0);
        }
        return constant(std::move(list));
      }
      case 'y':
        return constant(dtype_named(reader_.text()));
      case 'm':
        return constant(memory_format_named(reader_.text()));
      case 'l':
        return constant(c10::IValue(at::Layout::Strided));
      case 'd':
        return constant(c10::Device(reader_.text()));
      default:
        TORCH_CHECK_VALUE(false, "a plan's tape has an argument of the unknown kind ", static_cast<int>(tag));
    }
  }

  Argument read_tensors(const c10::Type& type, const std::string& name) {
    TORCH_CHECK_VALUE(type.kind() == c10::TypeKind::ListType, name, " takes no list");
    bool optional = type.castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::OptionalType;
    std::vector<uint32_t> slots(reader_.count());
    for (auto& slot : slots) {
      bool present = reader_.number<uint8_t>() != 0;
      TORCH_CHECK_VALUE(present || optional, name, " takes no list with gaps");
      slot = present ? known_slot() : kNoSlot;
    }
    return {optional ? Argument::Kind::OptionalTensors : Argument::Kind::Tensors, keep(std::move(slots))};
  }

  // The schema says what a number is: a list of one size, a floating-point number, or an integer.
  Argument read_integer(const c10::Type& type, const c10::Argument& argument) {
    auto number = affine();
    if (type.kind() == c10::TypeKind::ListType) {
      auto count = static_cast<size_t>(argument.N().value_or(1));
      return constant(integers(std::vector<Affine>(count, number), true));
    }
    if (type.kind() == c10::TypeKind::FloatType) {
      TORCH_CHECK_VALUE(number.slope == 0, argument.name(), " follows the batch, but is no integer");
      return constant(static_cast<double>(number.base));
    }
    auto made = integers({number}, false);
    made.as_tensor = type.kind() == c10::TypeKind::TensorType;
    return constant(std::move(made));
  }

  Argument read_integers(const c10::Type& type) {
    std::vector<Affine> numbers(reader_.count());
    for (auto& number : numbers) {
      number = affine();
    }
    bool floats = type.kind() == c10::TypeKind::ListType &&
        type.castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::FloatType;
    if (floats) {
      c10::List<double> list;
      for (const auto& number : numbers) {
        list.push_back(static_cast<double>(number.base));
      }
      return constant(std::move(list));
    }
    return constant(integers(std::move(numbers), true));
  }

  static Constant integers(std::vector<Affine> numbers, bool is_list) {
    bool follows = std::any_of(numbers.begin(), numbers.end(), [](const Affine& number) { return number.slope != 0; });
    if (follows) {
      return {c10::IValue(), std::move(numbers), is_list, false};
    }
    if (!is_list) {
      return {numbers.front().base, {}, false, false};
    }
    c10::List<int64_t> list;
    for (const auto& number : numbers) {
      list.push_back(number.base);
    }
    return {std::move(list), {}, true, false};
  }

  void note_last_uses() {
    std::vector<uint32_t> last(tape_.values, kNoSlot);
    auto note = [&](uint32_t slot, uint32_t step) {
      if (slot != kNoSlot) {
        last[slot] = step;
      }
    };
    for (uint32_t index = 0; index < tape_.steps.size(); ++index) {
      const Step& step = tape_.steps[index];
      for (const auto& argument : step.arguments) {
        if (argument.kind == Argument::Kind::Slot) {
          note(argument.index, index);
        } else if (argument.kind == Argument::Kind::Tensors || argument.kind == Argument::Kind::OptionalTensors) {
          for (auto slot : tape_.lists[argument.index]) {
            note(slot, index);
          }
        }
      }
      for (const auto& result : step.results) {
        if (!result.is_list) {
          note(result.index, index);
        } else {
          for (auto slot : tape_.lists[result.index]) {
            note(slot, index);
          }
        }
      }
    }
    for (const auto& output : tape_.outputs) {
      last[output.slot] = kNoSlot;
    }
    auto first = static_cast<uint32_t>(tape_.inputs.size() + tape_.shared.size());
    for (uint32_t slot = first; slot < tape_.values; ++slot) {
      if (last[slot] != kNoSlot) {
        tape_.steps[last[slot]].last_used.push_back(slot);
      }
    }
  }

  Reader reader_;
  Tape tape_;
  std::vector<bool> known_;
};

} // namespace

Tape read_tape(std::string_view bytes, const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& shared) {
  return TapeReader(bytes, inputs, shared).take();
}

bool Tape::fits(const at::Tensor* tensors, size_t count, int64_t* batch) const {
  if (count != inputs.size()) {
    return false;
  }
  *batch = -1;
  for (size_t i = 0; i < count; ++i) {
    const Input& input = inputs[i];
    const at::Tensor& tensor = tensors[i];
    auto sizes = tensor.sizes();
    if (tensor.scalar_type() != input.dtype || tensor.device().type() != input.device ||
        sizes.size() != input.sizes.size() || tensor.layout() != c10::kStrided) {
      return false;
    }
    auto strides = tensor.strides();
    for (size_t dim = 0; dim < sizes.size(); ++dim) {
      bool is_batch = dim == 0 && input.batched;
      if (is_batch) {
        if (*batch >= 0 && *batch != sizes[0]) {
          return false;
        }
        *batch = sizes[0];
      } else if (sizes[dim] != input.sizes[dim]) {
        return false;
      }
      if (strides[dim] != input.strides[dim] && sizes[dim] > 1) {
        return false;
      }
    }
  }
  return true;
}

bool Tape::is_current() const {
  for (const auto& one : shared) {
    const auto& storage = one.tensor.storage();
    if (storage.unsafeGetStorageImpl() != one.storage || storage.data() != one.data) {
      return false;
    }
  }
  return true;
}

} // namespace rivulet::plan
