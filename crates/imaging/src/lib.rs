//! image files to arrays and back, resizing, masks, compositing
