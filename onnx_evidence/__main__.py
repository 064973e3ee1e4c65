"""``python -m onnx_evidence``."""

from onnx_evidence.cli import main

if __name__ == "__main__":
    main()
