"""Pure torch: the fused weight (Eq. 5, 6, 10) and the losses (Eq. 7-9). Knows no transformer."""
