"""diffusers' autoencoders: what each kind does with images and latents, and where its files are."""
