"""Fine-tune a pretrained image classifier the way the fast.ai lesson taught."""
