//! CLIP's tokenizer: text to the ids of word pieces.
