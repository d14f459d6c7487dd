//! How far an ancestral step goes down, and how much noise it adds back. Knows no sampler.

/// The noise level to step down to, and the standard deviation of the noise that leads up to `to` again (k-diffusion,
/// `get_ancestral_step`). `eta` scales the noise.
pub(super) fn ancestral_step(from: f32, to: f32, eta: f32) -> (f32, f32) {
    if eta == 0.0 {
        return (to, 0.0);
    }
    let full = eta * (to * to * (from * from - to * to) / (from * from)).sqrt();
    let up = if full < to { full } else { to };
    ((to * to - up * up).sqrt(), up)
}

/// An ancestral step of a rectified flow, whose latents are `(1 - sigma) * data + sigma * noise`.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlowStep {
    /// The noise level to step down to.
    pub down: f32,
    /// By how much the latent shrinks as noise is added.
    pub rescale: f32,
    /// The standard deviation of the noise.
    pub renoise: f32,
}

impl FlowStep {
    /// From one noise level to the next.
    pub(super) fn new(from: f32, to: f32, eta: f32) -> Self {
        let down = to * (1.0 + (to / from - 1.0) * eta);
        let (alpha_to, alpha_down) = (1.0 - to, 1.0 - down);
        let variance = to * to - down * down * (alpha_to * alpha_to) / (alpha_down * alpha_down);
        Self { down, rescale: alpha_to / alpha_down, renoise: variance.sqrt() }
    }
}
