//! Which devices run prompts, as the settings name them. Does not know which there are.

/// More device threads than any machine has use for.
const MAX_DEVICES: usize = 64;

/// What runs prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devices {
    /// The first graphics card, or else the processor.
    Auto,
    /// Every graphics card, or else the processor.
    All,
    /// These, of which there is at least one.
    These(Vec<Device>),
}

/// A device by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The graphics card of that number.
    Cuda(usize),
}

/// Reads `cpu`, `cuda:1`, `cuda:0,cuda:1`, `auto` or `all`. The processor may be named several times: it runs so many prompts at once. A card
/// may not, since two that fill its memory without knowing of each other run out of it.
pub(super) fn devices(text: &str) -> Result<Devices, String> {
    match text.trim() {
        "auto" => return Ok(Devices::Auto),
        "all" => return Ok(Devices::All),
        _ => {}
    }
    let mut devices = Vec::new();
    for part in text.split(',').map(str::trim) {
        let number = || part.strip_prefix("cuda:")?.parse().ok();
        let device = match part {
            "cpu" => Device::Cpu,
            "cuda" => Device::Cuda(0),
            _ => number().map(Device::Cuda).ok_or_else(|| {
                format!("`{part}` is no device: write cpu, cuda:0 or several with commas between them, or auto or all alone")
            })?,
        };
        if device != Device::Cpu && devices.contains(&device) {
            return Err(format!("`{part}` is named twice: a card runs one prompt at a time"));
        }
        devices.push(device);
    }
    if devices.len() > MAX_DEVICES {
        return Err(format!("{} devices are named: at most {MAX_DEVICES} can run prompts", devices.len()));
    }
    Ok(Devices::These(devices))
}
