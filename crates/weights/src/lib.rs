//! safetensors headers and files
