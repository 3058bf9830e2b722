import torch

from pipeline.data.batches import shuffled_batches


def test_every_image_comes_once_with_its_label():
    images, labels = torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10)
    batches = list(shuffled_batches(images, labels, batch_size=4))
    assert [len(batch_labels) for _, batch_labels in batches] == [4, 4, 2]
    seen = torch.cat([batch_labels for _, batch_labels in batches])
    assert sorted(seen.tolist()) == list(range(10))
    assert torch.equal(torch.cat([i for i, _ in batches]).flatten().long(), seen)


def test_the_order_is_random_and_follows_the_seed():
    def order() -> list[int]:
        batches = shuffled_batches(torch.zeros(100, 1, 1, 1), torch.arange(100), 10)
        return torch.cat([labels for _, labels in batches]).tolist()

    torch.manual_seed(1)
    first, second = order(), order()
    torch.manual_seed(1)
    assert order() == first != second
