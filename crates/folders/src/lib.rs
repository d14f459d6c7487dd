//! where files live: input, output, temp, user and model folders
