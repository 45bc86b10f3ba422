"""What a run will take, before anything is spent: images, files, bytes, floating-point operations, memory and hours.

Networks are built by their library classes from the configuration files alone, of tensors that have a shape and no
content, and run once in the sizes of the run, while every operation and every live byte is counted (`meter.py`).
"""
