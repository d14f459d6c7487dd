//! Devices, residency and memory budget, model loading and patching, conditioning and guidance: where models and samplers meet. Knows no
//! HTTP and no node class.
