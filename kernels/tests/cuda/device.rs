//! Opening, memory, rings, launches, graphs, errors.

use sconce_kernels::gpu::cuda::CudaGpu;
use sconce_kernels::gpu::device::{GpuDevice, GpuError};
use sconce_kernels::gpu::launch::{DevicePtr, Launch, Params};

use super::stand_in::StandIn;

/// As large as the parameter of every kernel of the stand-in.
#[repr(C)]
#[derive(Clone, Copy)]
struct Pair {
    first: i64,
    second: i64,
}

// SAFETY: two numbers, no padding.
unsafe impl Params for Pair {
    const NAME: &'static str = "Pair";
}

fn launch(kernel: &str, first: i64) -> Launch {
    let mut launch = Launch::new("norm", kernel, &Pair { first, second: 7 });
    (launch.grid, launch.threads, launch.overlap) = ([3, 2, 1], 256, true);
    launch
}

fn with_shared(mut launch: Launch, bytes: u32) -> Launch {
    launch.shared_bytes = bytes;
    launch
}

/// Lines of kernels.
fn kernels(stand_in: &StandIn) -> Vec<String> {
    let log = stand_in.take_log().into_iter();
    log.filter(|line| line.contains(" threads ")).map(|line| line.replace(" 3x2x1 threads 256", "")).collect()
}

#[test]
fn opening_tells_the_card_and_dropping_gives_all_back() {
    let Some(stand_in) = StandIn::take() else { return };
    let mut gpu = CudaGpu::open(0).expect("a card");
    let info = gpu.info().clone();
    assert_eq!((info.name.as_str(), info.compute, info.num_sms), ("Stand-in 0", (9, 0), 132));
    assert_eq!((info.shared_bytes, info.shared_bytes_per_sm), (227 << 10, 228 << 10));
    assert_eq!(gpu.versions(), Ok((13_000, 130_001)));
    assert_eq!(gpu.num_allocs(), 1, "the workspace");
    let before = gpu.free_bytes().expect("free");
    let at = gpu.alloc(1 << 20, "a test").expect("memory");
    assert_eq!((at.0 % 256, gpu.num_allocs()), (0, 2));
    assert_eq!(gpu.free_bytes().expect("free"), before - (1 << 20));
    let error = gpu.alloc(1 << 40, "weights").expect_err("too much");
    assert_eq!(error, GpuError::OutOfMemory { what: "weights", bytes: 1 << 40, free: before - (1 << 20) });
    gpu.reserve_staging(64, 64).expect("staging");
    gpu.reserve_staging(128, 128).expect("larger staging");
    gpu.launch(&launch("k", 1)).expect("a launch");
    assert!(stand_in.live()[0] > 10);
    drop(gpu);
    assert_eq!(stand_in.take_log().last().map(String::as_str), Some("release"), "the context goes last");
}

#[test]
fn what_will_not_do_is_told() {
    let Some(stand_in) = StandIn::take() else { return };
    let refused = |ordinal| CudaGpu::open(ordinal).err().expect("refused").to_string();
    assert_eq!(refused(3), "there is no GPU 3; found 1: 0: Stand-in 0");
    stand_in.set(12_080, 9);
    assert!(refused(0).contains("CUDA 12.8, 13.0 is needed"), "{}", refused(0));
    stand_in.set(13_000, 7);
    assert!(refused(0).starts_with("Stand-in 0 has compute capability 7.0, 8.0 is needed"), "{}", refused(0));
    stand_in.set(13_000, 9);
    stand_in.fail("cuStreamCreate", 999);
    assert!(CudaGpu::open(0).err().expect("refused").is_fatal());
}

#[test]
fn long_writes_arrive_whole_and_in_order() {
    let Some(_stand_in) = StandIn::take() else { return };
    let mut gpu = CudaGpu::open(0).expect("a card");
    // Two pinned buffers of 16 MiB, the first of them used twice.
    let bytes: Vec<u8> = (0..33 << 20).map(|index: usize| (index % 251) as u8).collect();
    let at = gpu.alloc(bytes.len() + 1, "a test").expect("memory");
    gpu.fill(at, 9, bytes.len() + 1).expect("filled");
    gpu.write(at, &bytes).expect("written");
    let mut back = vec![0; bytes.len() + 1];
    gpu.read(at, &mut back).expect("read");
    assert!(back[..bytes.len()] == bytes && back[bytes.len()] == 9);
    gpu.write(at, &[]).and_then(|()| gpu.read(at, &mut [])).and_then(|()| gpu.fill(at, 0, 0)).expect("nothing to do");
}

#[test]
fn rings_wait_for_the_buffer_and_no_longer() {
    let Some(_stand_in) = StandIn::take() else { return };
    let mut gpu = CudaGpu::open(0).expect("a card");
    let at = gpu.alloc(4096, "a test").expect("memory");
    assert!(gpu.upload(at, &[1]).is_err(), "no staging yet");
    gpu.reserve_staging(32, 16).expect("staging");
    for step in 0..10_u8 {
        gpu.upload(at.byte_add(32 * usize::from(step)), &[step + 1; 32]).expect("an upload");
    }
    let begun: Vec<_> =
        (0..5).map(|step| gpu.begin_download(at.byte_add(32 * step), 16).expect("a download")).collect();
    for (step, download) in begun.into_iter().enumerate() {
        let bytes = gpu.end_download(download);
        // Four buffers: the first of five is overwritten.
        if step == 0 {
            assert!(matches!(bytes, Err(GpuError::Operand(_))), "{bytes:?}");
        } else {
            assert_eq!(bytes.expect("bytes"), [step as u8 + 1; 16]);
        }
    }
    let mut all = [0; 320];
    gpu.read(at, &mut all).expect("read");
    assert!(all.chunks(32).enumerate().all(|(step, bytes)| bytes == [step as u8 + 1; 32]));
    assert!(gpu.upload(at, &[0; 33]).is_err() && gpu.begin_download(at, 17).is_err(), "longer than reserved");
}

#[test]
fn launches_carry_their_sizes_and_overlap_kernels_only() {
    let Some(stand_in) = StandIn::take() else { return };
    let mut gpu = CudaGpu::open(0).expect("a card");
    let at = gpu.alloc(64, "a test").expect("memory");
    gpu.launch(&launch("one", 1)).expect("a launch");
    gpu.launch(&launch("two", 2)).expect("a launch");
    let (mut none, mut three) = (launch("none", 0), launch("three", 3));
    (none.grid, three.overlap) = ([1, 0, 1], false);
    gpu.launch(&none).and_then(|()| gpu.launch(&three)).expect("launches");
    gpu.fill(at, 0, 64).expect("filled");
    gpu.launch(&with_shared(launch("four", 4), 200 << 10)).expect("a launch");
    gpu.launch(&with_shared(launch("one", 5), 48 << 10)).expect("a launch");
    assert_eq!(kernels(&stand_in), [] as [&str; 0], "nothing waits for them yet");
    gpu.synchronize().expect("done");
    let expected = [
        "one shared 0 params 1 7",
        "two shared 0 overlap params 2 7",
        "three shared 0 params 3 7",
        "four shared 204800 params 4 7",
        "one shared 49152 overlap params 5 7",
    ];
    assert_eq!(kernels(&stand_in), expected);

    let error = gpu.launch(&with_shared(launch("four", 6), 227 << 10)).expect_err("too much");
    assert_eq!(error.to_string(), "kernel four needs 233472 bytes of shared memory, a block has 232448");
    let error = gpu.launch(&launch("no_such", 0)).expect_err("no kernel").to_string();
    assert_eq!(error, "cuModuleGetFunction: CUDA_ERROR_NOT_FOUND for no_such");
    let error = gpu.launch(&Launch::new("norm", "one", &DevicePtrParams(at))).expect_err("parameters").to_string();
    assert_eq!(error, "kernel one takes 16 bytes of parameters, not 8");
    stand_in.fail("cuLaunchKernelEx", 701);
    let error = gpu.launch(&launch("one", 0)).expect_err("failed").to_string();
    assert!(
        error.starts_with("cuLaunchKernelEx: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES for one, grid 3 x 2 x 1"),
        "{error}"
    );
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DevicePtrParams(DevicePtr);

// SAFETY: one address.
unsafe impl Params for DevicePtrParams {
    const NAME: &'static str = "DevicePtrParams";
}

#[test]
fn cards_below_9_0_do_not_overlap() {
    let Some(stand_in) = StandIn::take() else { return };
    stand_in.set(13_000, 8);
    let mut gpu = CudaGpu::open(0).expect("a card");
    gpu.launch(&launch("one", 1)).and_then(|()| gpu.launch(&launch("one", 2))).expect("launches");
    gpu.synchronize().expect("done");
    assert_eq!(kernels(&stand_in), ["one shared 0 params 1 7", "one shared 0 params 2 7"]);
}

#[test]
fn another_thread_binds_the_context_once() {
    let Some(stand_in) = StandIn::take() else { return };
    let mut gpu = CudaGpu::open(0).expect("a card");
    let binds = |log: Vec<String>| log.iter().filter(|line| *line == "bind").count();
    assert_eq!(binds(stand_in.take_log()), 1);
    gpu.synchronize().expect("done");
    assert_eq!(binds(stand_in.take_log()), 0);
    let gpu = std::thread::spawn(move || {
        gpu.launch(&launch("one", 1)).expect("a launch");
        gpu.synchronize().expect("done");
        gpu
    });
    let gpu = gpu.join().expect("no panic");
    assert_eq!(binds(stand_in.take_log()), 1);
    std::thread::spawn(move || drop(gpu)).join().expect("no panic");
    assert_eq!(binds(stand_in.take_log()), 1);
    // The binding of this thread is stale now, and opening renews it.
    drop(CudaGpu::open(0).expect("a card"));
}

#[test]
fn graphs_replay_what_was_captured() {
    let Some(stand_in) = StandIn::take() else { return };
    let mut gpu = CudaGpu::open(0).expect("a card");
    let at = gpu.alloc(64, "a test").expect("memory");
    let error = gpu.begin_capture().and_then(|()| gpu.launch(&launch("one", 1))).expect_err("not loaded");
    assert_eq!(error.to_string(), "kernel one is not loaded: launch it once before the capture");
    assert_eq!(gpu.end_capture(), Err(error), "what failed is what the end says");

    gpu.launch(&launch("one", 1)).and_then(|()| gpu.synchronize()).expect("eager");
    gpu.begin_capture().expect("a capture");
    gpu.launch(&launch("one", 2)).and_then(|()| gpu.launch(&launch("one", 3))).expect("captured");
    let graph = gpu.end_capture().expect("a graph");
    assert_eq!(kernels(&stand_in), ["one shared 0 params 1 7"]);
    gpu.replay(graph).and_then(|()| gpu.replay(graph)).and_then(|()| gpu.synchronize()).expect("replayed");
    let twice = ["one shared 0 params 2 7", "one shared 0 overlap params 3 7"];
    assert_eq!(kernels(&stand_in), [twice, twice].concat());

    gpu.begin_capture().expect("a capture");
    for refused in [gpu.write(at, &[1]), gpu.fill(at, 1, 1), gpu.synchronize(), gpu.replay(graph), gpu.begin_capture()]
    {
        assert!(matches!(refused, Err(GpuError::Operand(_))), "{refused:?}");
    }
    assert_eq!(gpu.end_capture(), Err(GpuError::Operand("a write can't be captured".to_owned())));
    assert!(gpu.end_capture().is_err() && gpu.replay(sconce_kernels::gpu::device::GraphId(9)).is_err());
    gpu.begin_capture().expect("a capture that nobody ends");
}

#[test]
fn a_lost_card_says_so() {
    let Some(stand_in) = StandIn::take() else { return };
    let mut gpu = CudaGpu::open(0).expect("a card");
    stand_in.fail("cuStreamSynchronize", 700);
    let error = gpu.synchronize().expect_err("lost");
    assert!(error.is_fatal(), "{error}");
    assert!(error.to_string().contains("cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
}
