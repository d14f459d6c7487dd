//! Compiles the kernels for NVIDIA cards, where they are wanted, to PTX in the folder for build products. Knows nothing of the kernels.

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    cudaforge::KernelBuilder::new().source_files(["cuda/models.cu"]).arg("-std=c++17").arg("-O3").build_ptx()?;
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
