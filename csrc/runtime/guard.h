// Streams and events as c10 sees them.
#pragma once
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace rivulet {

const c10::impl::DeviceGuardImplInterface& device_guard();

} // namespace rivulet
