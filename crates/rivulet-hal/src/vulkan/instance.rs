use super::spare::Spares;
use crate::HalError;
use crate::sync::{self, Arc, Mutex, Rank};
use ash::{Entry, Instance, ext, vk};
use std::ffi::{CStr, c_void};

/// Messages kept for [`messages`].
const KEPT: usize = 100;
const VALIDATION: &CStr = c"VK_LAYER_KHRONOS_validation";

sync::global! {
    static MESSAGES: Mutex<Vec<String>> = Mutex::new(Rank::DRIVER, Vec::new());
    /// Without validation, and with it.
    static OPEN: Mutex<[Option<Arc<Connection>>; 2]> = Mutex::new(Rank::DRIVER, [None, None]);
}

pub(super) fn messages() -> Vec<String> {
    MESSAGES.lock().clone()
}

/// A connection to the loader. One that was opened stays for the life of the process: with its last instance the loader
/// unloads the drivers, and NVIDIA's leave destructors of thread-local data behind, which every thread that has used them
/// would call at its end, in memory that is no longer theirs.
pub(super) struct Connection {
    pub(super) instance: Instance,
    messenger: Option<(ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    pub(super) entry: Entry,
    pub(super) spares: Spares,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("validation", &self.messenger.is_some()).finish()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: every object made from the instance holds a reference to this value, so none is left; the messenger
        // is destroyed before the instance that made it.
        unsafe {
            if let Some((utils, messenger)) = &self.messenger {
                utils.destroy_debug_utils_messenger(*messenger, None);
            }
            self.instance.destroy_instance(None);
        }
    }
}

impl Connection {
    /// True where Khronos' layer listens.
    pub(super) fn is_validated(&self) -> bool {
        self.messenger.is_some()
    }

    /// The process's connection, made by the first who asks.
    pub(super) fn open(validation: bool) -> Result<Arc<Self>, HalError> {
        let place = usize::from(validation);
        let known = OPEN.lock()[place].clone();
        if let Some(known) = known {
            return Ok(known);
        }
        // Not under the lock: the layer may call back, and messages have a lock of the same rank.
        let made = Self::make(validation)?;
        let mut open = OPEN.lock();
        let kept = Arc::clone(open[place].get_or_insert_with(|| Arc::clone(&made)));
        drop(open);
        Ok(kept)
    }

    /// Loads the Vulkan library of the system and makes an instance.
    fn make(validation: bool) -> Result<Arc<Self>, HalError> {
        // SAFETY: loading runs the initialisers of the system's Vulkan loader, which is what the user asked for by
        // installing it.
        let entry =
            unsafe { Entry::load() }.map_err(|error| unavailable(&format!("no Vulkan library: {error}")))?;
        // SAFETY: only reads what the loader offers.
        let layers = unsafe { entry.enumerate_instance_layer_properties() }.unwrap_or_default();
        let offered = layers.iter().any(|layer| layer.layer_name_as_c_str() == Ok(VALIDATION));
        if validation && !offered {
            return Err(unavailable(
                "validation was asked for, but the layer VK_LAYER_KHRONOS_validation is not installed",
            ));
        }
        let application = vk::ApplicationInfo::default()
            .application_name(c"rivulet")
            .engine_name(c"rivulet")
            .api_version(vk::API_VERSION_1_3);
        let (layers, extensions) = if validation {
            (
                vec![VALIDATION.as_ptr()],
                vec![ext::debug_utils::NAME.as_ptr(), ext::validation_features::NAME.as_ptr()],
            )
        } else {
            (Vec::new(), Vec::new())
        };
        let enabled = [vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION];
        let mut features = vk::ValidationFeaturesEXT::default().enabled_validation_features(&enabled);
        let mut info = vk::InstanceCreateInfo::default()
            .application_info(&application)
            .enabled_layer_names(&layers)
            .enabled_extension_names(&extensions);
        if validation {
            info = info.push_next(&mut features);
        }
        // SAFETY: the names and structures outlive the call.
        let instance = unsafe { entry.create_instance(&info, None) }
            .map_err(|error| unavailable(&format!("vkCreateInstance: {error}")))?;
        let messenger = if validation { Some(listen(&entry, &instance)?) } else { None };
        Ok(Arc::new(Self { instance, messenger, entry, spares: Spares::new() }))
    }
}

pub(super) fn unavailable(why: &str) -> HalError {
    HalError::Usage(format!("Vulkan: {why}"))
}

fn listen(
    entry: &Entry,
    instance: &Instance,
) -> Result<(ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT), HalError> {
    let utils = ext::debug_utils::Instance::new(entry, instance);
    let info = vk::DebugUtilsMessengerCreateInfoEXT::default()
        .message_severity(
            vk::DebugUtilsMessageSeverityFlagsEXT::WARNING | vk::DebugUtilsMessageSeverityFlagsEXT::ERROR,
        )
        .message_type(
            vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION | vk::DebugUtilsMessageTypeFlagsEXT::PERFORMANCE,
        )
        .pfn_user_callback(Some(note));
    // SAFETY: the extension was enabled with the layer, and the callback is a function of this library.
    match unsafe { utils.create_debug_utils_messenger(&info, None) } {
        Ok(messenger) => Ok((utils, messenger)),
        Err(error) => {
            // SAFETY: nothing was made from the instance yet.
            unsafe { instance.destroy_instance(None) };
            Err(unavailable(&format!("vkCreateDebugUtilsMessengerEXT: {error}")))
        }
    }
}

/// Keeps what the layer says. Called by the driver on any thread, inside any call.
unsafe extern "system" fn note(
    _severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _kind: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    _user: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: the layer passes a valid structure whose message is a C string or null.
    let text = unsafe { data.as_ref() }.filter(|data| !data.p_message.is_null());
    if let Some(data) = text {
        // SAFETY: as above.
        let message = unsafe { CStr::from_ptr(data.p_message) }.to_string_lossy().into_owned();
        let mut kept = MESSAGES.lock();
        if kept.len() < KEPT {
            kept.push(message);
        }
    }
    vk::FALSE
}
