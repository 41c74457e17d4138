"""The causal depthwise convolution in front of the scan: one signature, one file per implementation."""
