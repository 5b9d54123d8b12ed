"""The names of ITREX's NeuralChat: `build_chatbot` and its configurations."""
